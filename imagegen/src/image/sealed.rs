//! What an image has whose state partition is encrypted: programs and units of the initrd, and
//! packages and files of the root.

use anyhow::{Context as _, Result};
use userdata::contract::{FIRST_KEY_DIR, STATE_FILE};

use super::archive::Archive;
use super::initrd::Additions;
use crate::plan::ImagePlan;

/// Debian's packages of the tools tree: the libraries that systemd loads to talk to a TPM.
pub(super) const TOOLS: &[&str] = &[
    "libtss2-esys-3.0.2-0t64",
    "libtss2-mu-4.0.1-0t64",
    "libtss2-rc0t64",
    "libtss2-tcti-device0t64",
];

/// Debian's packages of the root: firstboot enrols the recovery key with cryptsetup.
pub(super) const ROOT: &[&str] = &["cryptsetup-bin"];

/// dracut's modules that measure the phase of the boot and that ask on the consoles. Not its module
/// `crypt`, which brings a shell.
const MODULES: &str = "systemd-pcrphase systemd-ask-password";

/// Programs, and the libraries that they load by name. dracut does not add what a library needs, and
/// systemd says only that the TPM cannot be used if one of them is missing.
const INSTALL: &str = "systemd-cryptsetup systemd-cryptenroll systemd-ask-password \
                       /usr/lib/x86_64-linux-gnu/libtss2-sys.so.1 \
                       /usr/lib/x86_64-linux-gnu/cryptsetup/libcryptsetup-token-systemd-tpm2.so \
                       /usr/lib/x86_64-linux-gnu/libtss2-esys.so.0 \
                       /usr/lib/x86_64-linux-gnu/libtss2-mu.so.0 \
                       /usr/lib/x86_64-linux-gnu/libtss2-rc.so.0 \
                       /usr/lib/x86_64-linux-gnu/libtss2-tcti-device.so.0";

/// The ciphers of LUKS2, and the file system with the firmware's variables: by one of them systemd
/// knows that the kernel image is measured. Drivers of TPMs are in the kernel.
const DRIVERS: &str = "dm-crypt algif_skcipher xts aesni_intel efivarfs";

const FILES: &[(&str, &str)] = &[(
    "usr/lib/systemd/system/systemd-repart.service.d/sealed.conf",
    include_str!("../../assets/sealed/repart.conf"),
)];

/// Definition of the state partition, in the place of the plain one.
const DEFINITION: (&str, &str) = (
    "usr/lib/repart.d/50-state.conf",
    include_str!("../../assets/sealed/state.repart.conf"),
);

/// Credentials from SMBIOS are units, passwords and more, and no register that the state is sealed to
/// measures them. firstboot reads its own without systemd.
const NO_CREDENTIALS: &str = "systemd.import_credentials=no";

/// The kernel arguments of an image: the topology's, behind those by which nothing from outside
/// changes what runs with the state open.
pub fn arguments(plan: &ImagePlan) -> Vec<String> {
    let is_closed = plan.state().is_some_and(|state| state.secure_boot);
    let own = is_closed.then(|| NO_CREDENTIALS.to_owned());
    own.into_iter()
        .chain(plan.cmdline.iter().cloned())
        .collect()
}

/// Adds to an initrd what makes and opens the state.
pub(super) fn initrd<'a>(plan: &ImagePlan, mut more: Additions<'a>) -> Additions<'a> {
    if plan.state().is_some() {
        more.files.extend(FILES);
        more.modules.push_str(MODULES);
        more.install.push_str(INSTALL);
        more.drivers.push_str(DRIVERS);
    }
    more
}

/// Adds to the root how its state is encrypted.
pub fn add(root: &mut Archive, plan: &ImagePlan) -> Result<()> {
    let Some(state) = plan.state() else {
        return Ok(());
    };
    let (path, text) = DEFINITION;
    root.file(path, 0o644, text.as_bytes());
    root.directory(FIRST_KEY_DIR.trim_start_matches('/'), 0o700);
    let state = serde_json::to_vec_pretty(&state).context("writing the state file")?;
    root.file(STATE_FILE.trim_start_matches('/'), 0o644, state);
    Ok(())
}

/// The part of the image's key that this module decides; empty for a plain image.
pub(super) fn recipe(plan: &ImagePlan) -> String {
    match plan.state() {
        None => String::new(),
        Some(_) => format!(
            "{:?}",
            (
                TOOLS,
                ROOT,
                MODULES,
                INSTALL,
                DRIVERS,
                FILES,
                DEFINITION,
                NO_CREDENTIALS
            )
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SecureBootPlan;
    use userdata::state_info::Encryption;

    #[test]
    fn only_state_of_a_signed_image_shuts_credentials_out() {
        let mut plan = ImagePlan {
            cmdline: vec!["loglevel=7".to_owned()],
            encrypt: Encryption::Tpm2,
            ..ImagePlan::default()
        };
        assert_eq!(arguments(&plan), ["loglevel=7"]);
        plan.secure_boot = Some(SecureBootPlan {
            key: "key".to_owned(),
            certificate: "certificate".to_owned(),
        });
        assert_eq!(arguments(&plan), [NO_CREDENTIALS, "loglevel=7"]);
        plan.encrypt = Encryption::None;
        assert_eq!(arguments(&plan), ["loglevel=7"]);
    }
}
