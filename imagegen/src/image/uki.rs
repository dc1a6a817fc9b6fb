//! The unified kernel image: one EFI program with kernel, initrd, and a command line that has the
//! root hash.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use build_tools::debian_tree::Tree;
use build_tools::process;

use super::signing::Signing;
use crate::state_keys::PolicyKey;

/// The command line of every image, after `roothash=`.
const CMDLINE: &[&str] = &[
    "root=/dev/mapper/root rootfstype=erofs ro",
    // A modified root must not run, not even with one damaged file.
    "systemd.verity_root_options=panic-on-corruption panic=30",
    // All partitions have explicit names; systemd must not guess any from its type.
    "systemd.gpt_auto=0 rd.shell=0 loglevel=4",
];

/// Whether a signed image would run unsigned code with this argument: a shell, another `init`,
/// modules without a signature. The kernel hands unknown `KEY=value` to init as environment.
pub fn is_unsafe(argument: &str) -> bool {
    let key = argument.split('=').next().unwrap_or_default();
    // The kernel and systemd take both for the same.
    let key = key.replace('-', "_");
    UNSAFE.contains(&key.as_str()) || key.starts_with("SYSTEMD_") || key.starts_with("LD_")
}

const UNSAFE: &[&str] = &[
    "1",
    "S",
    "_b",
    "__",
    "emergency",
    "init",
    "initrd",
    "lockdown",
    "module.sig_enforce",
    "rd.break",
    "rd.shell",
    "rd.systemd.debug_shell",
    "rd.systemd.import_credentials",
    "rd.systemd.setenv",
    "rd.systemd.unit",
    "rd.systemd.wants",
    "rdinit",
    "rescue",
    "s",
    "single",
    "systemd.debug_shell",
    "systemd.import_credentials",
    "systemd.mask",
    "systemd.set_credential",
    "systemd.set_credential_binary",
    "systemd.setenv",
    "systemd.unit",
    "systemd.wants",
];

/// The kernel command line. `extra`, from the topology, is last and so wins where options conflict.
pub fn cmdline(root_hash: &str, console: &[String], extra: &[String]) -> String {
    // The ids of the partitions of root and hash tree are the two halves of this hash.
    words(&[format!("roothash={root_hash}")], console, extra)
}

/// [`cmdline`], with `first` in the place of the root hash alone.
pub(super) fn words(first: &[String], console: &[String], extra: &[String]) -> String {
    let mut words = first.to_vec();
    words.extend(CMDLINE.iter().map(|&words| words.to_owned()));
    words.extend(console.iter().map(|device| format!("console={device}")));
    words.extend(extra.iter().cloned());
    words.join(" ")
}

/// What is in the image, besides the kernel of the tools tree.
#[derive(Debug)]
pub struct Contents<'a> {
    pub release: &'a str,
    pub initrd: &'a Path,
    pub cmdline: &'a str,
    pub os_release: &'a [u8],
}

/// What signs an image.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keys<'a> {
    /// The whole, for Secure Boot.
    pub secure_boot: Option<&'a Signing>,
    /// The values that the firmware's TPM measures of it, for encrypted state.
    pub policy: Option<&'a PolicyKey>,
}

/// The signature holds until the initrd is left: a root shell of the running system cannot ask the
/// TPM for the key of the state. One bank, because each value is signed for each bank.
const POLICY: &[&str] = &[
    "--pcr-private-key=/tmp/keys/policy.key",
    "--pcr-public-key=/tmp/keys/policy.pub",
    "--phases=enter-initrd",
    "--pcr-banks=sha256",
];

/// Builds `work/uki.efi`, signed by `keys`, and returns its path.
pub fn build(
    tools: &Tree,
    contents: &Contents<'_>,
    keys: Keys<'_>,
    work: &Path,
) -> Result<PathBuf> {
    let Contents {
        release,
        initrd,
        cmdline,
        os_release,
    } = contents;
    let os_release_file = work.join("os-release");
    std::fs::write(&os_release_file, os_release)
        .with_context(|| format!("writing `{}`", os_release_file.display()))?;
    let uki = work.join("uki.efi");
    let name = |path: &Path| -> Result<String> {
        let name = path.file_name().context("a file without a name")?;
        Ok(format!("/tmp/work/{}", name.to_string_lossy()))
    };
    // Only root reads it, and it goes when this function ends.
    let folder = tempfile::tempdir_in(work).context("creating a folder for the signing keys")?;
    let binds = [(work, "/tmp/work"), (folder.path(), "/tmp/keys")];
    let mut ukify = tools.chroot(&binds, "ukify")?;
    ukify.arg("build");
    ukify.arg(format!("--linux=/boot/vmlinuz-{release}"));
    ukify.arg(format!("--initrd={}", name(initrd)?));
    ukify.arg(format!("--cmdline={cmdline}"));
    ukify.arg(format!("--uname={release}"));
    ukify.arg(format!("--os-release=@{}", name(&os_release_file)?));
    ukify.arg(format!("--output={}", name(&uki)?));
    if let Some(policy) = keys.policy {
        for (name, text) in [
            ("policy.key", policy.private_pem().expose()),
            ("policy.pub", &policy.public_pem()),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, text).with_context(|| format!("writing `{}`", path.display()))?;
        }
        ukify.args(POLICY);
    }
    if let Some(signing) = keys.secure_boot {
        signing.write_to(folder.path())?;
        ukify.args([
            "--signtool=systemd-sbsign",
            // The signature of the whole covers the kernel in it; this tool cannot look whether the
            // kernel has its own.
            "--no-sign-kernel",
            "--secureboot-private-key=/tmp/keys/key",
            "--secureboot-certificate=/tmp/keys/certificate",
        ]);
    }
    process::run(&mut ukify)?;
    Ok(uki)
}

/// The part of the image's key that this module decides.
pub(super) fn recipe() -> String {
    format!("{:?}", (CMDLINE, POLICY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_arguments_are_known_in_each_spelling() {
        for argument in [
            "init=/bin/sh",
            "rd.break",
            "rd.shell=1",
            "systemd.debug-shell",
            "systemd.debug_shell=tty9",
            "systemd.import-credentials=yes",
            "module.sig-enforce=0",
            "SYSTEMD_SULOGIN_FORCE=1",
            "single",
            "--",
        ] {
            assert!(is_unsafe(argument), "{argument}");
        }
        for argument in [
            "mitigations=off",
            "loglevel=7",
            "net.ifnames=0",
            "initcall_debug",
        ] {
            assert!(!is_unsafe(argument), "{argument}");
        }
    }

    #[test]
    fn topology_arguments_are_last() {
        let line = cmdline("ab", &["ttyS0".into()], &["loglevel=7".into()]);
        assert!(line.starts_with("roothash=ab "), "{line}");
        assert!(line.ends_with("console=ttyS0 loglevel=7"), "{line}");
    }
}
