//! Opens the encrypted state partition: by the TPM, else by the recovery key of a person.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use userdata::contract::POLICY_KEY;
use userdata::state_info::StateInfo;

use super::{
    Obstacle, PARTITION, has_outside_arguments, has_tpm, header, info, is_secure_boot_on, obstacle,
};
use crate::report::console;
use crate::screen::Screen;
use crate::system::files::{Attributes, Root};
use crate::system::machine::Identity;
use crate::system::{command, credentials};

/// The name of the opened volume.
const NAME: &str = "firstlight-state";
const OPENED: &str = "/dev/mapper/firstlight-state";
/// The recovery key while it is tried, in memory.
const KEY: &str = "/run/firstlight/recovery.key";
/// The credential with the recovery key, of firmware or a hypervisor.
const CREDENTIAL: &str = "cryptsetup.passphrase";
/// systemd-stub's signatures of the policy.
const SIGNATURE: &str = "/.extra/tpm2-pcr-signature.json";
/// systemd waits for a TPM that appears late.
const TPM_OPTIONS: &str = "tpm2-device=auto,headless=true,token-timeout=10s";

/// The device with the file system of the state on `partition`, which this opens if it is encrypted.
pub fn open(root: &Root, partition: &Path) -> Result<PathBuf> {
    let bindings = header::read(partition)?;
    let shown = partition.display().to_string();
    let (info, bindings) = match (info(root)?, bindings) {
        (None, None) => return Ok(partition.to_owned()),
        (Some(info), Some(bindings)) => (info, bindings),
        (Some(_), None) => return Err(stop(root, Obstacle::Plain(shown))),
        (None, Some(_)) => return Err(stop(root, Obstacle::Encrypted(shown))),
    };
    if !root.exists(OPENED)
        && let Err(error) = attach(&shown, "none", TPM_OPTIONS)
    {
        let is_new = root.exists(super::make::MADE);
        if is_new {
            return Err(stop(root, Obstacle::Unusable(format!("{error:#}"))));
        }
        let reason = Reason::find(root, &bindings, &format!("{error:#}"));
        recover(root, &shown, &info, &reason)?;
    }
    root.write_volatile(PARTITION, shown.as_bytes())?;
    Ok(OPENED.into())
}

fn stop(root: &Root, obstacle: Obstacle) -> anyhow::Error {
    obstacle.record(root);
    obstacle.into()
}

fn attach(partition: &str, key: &str, options: &str) -> Result<()> {
    command::run(
        "systemd-cryptsetup",
        &["attach", NAME, partition, key, options],
    )
}

/// Why the TPM does not open the state.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reason {
    NoTpm,
    NoPolicy,
    NotSealed,
    OtherPolicy,
    SecureBootOff,
    OutsideArguments,
    /// With the last words of systemd.
    OtherTpm(String),
}

impl Reason {
    fn find(root: &Root, bindings: &[header::Binding], error: &str) -> Self {
        let policy = root.read(POLICY_KEY).ok().flatten().unwrap_or_default();
        let fixed = |register| bindings.iter().any(|one| one.fixed.contains(&register));
        let is_ours = |one: &header::Binding| one.policy_key.trim_ascii() == policy.trim_ascii();
        if !has_tpm(root) {
            Self::NoTpm
        } else if policy.is_empty() || !root.exists(SIGNATURE) {
            Self::NoPolicy
        } else if bindings.is_empty() {
            Self::NotSealed
        } else if !bindings.iter().any(is_ours) {
            Self::OtherPolicy
        } else if fixed(7) && !is_secure_boot_on(root) {
            Self::SecureBootOff
        } else if fixed(12) && has_outside_arguments(root) {
            Self::OutsideArguments
        } else {
            // The last line says that nothing was asked for.
            let last = error.lines().rev().find(|line| !line.contains("headless"));
            Self::OtherTpm(last.unwrap_or_default().to_owned())
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTpm => f.write_str("this machine has no TPM 2.0 that works"),
            Self::NoPolicy => f.write_str("the kernel image has no signed policy"),
            Self::NotSealed => f.write_str(
                "the state is sealed to no TPM: the boot that was to seal it to this one did not \
                 complete it",
            ),
            Self::OtherPolicy => f.write_str(
                "the state is sealed to images of another output folder of imagegen: another key \
                 signed the policy of this one",
            ),
            Self::SecureBootOff => f.write_str("the state is sealed to Secure Boot, which is off"),
            Self::OutsideArguments => {
                f.write_str("the kernel has arguments or credentials from outside the signed image")
            }
            Self::OtherTpm(last) => write!(
                f,
                "the state is sealed to another TPM, or to other keys of Secure Boot: {last}"
            ),
        }
    }
}

/// Asks for the recovery key until one opens the state, and seals the state to this machine's TPM.
fn recover(root: &Root, partition: &str, info: &StateInfo, reason: &Reason) -> Result<()> {
    for line in screen(root, reason).lines() {
        console::write(root, &line);
    }
    let mut credential = credentials::read(root, CREDENTIAL);
    loop {
        let key = match credential.take() {
            Some(key) => key,
            None => ask()?,
        };
        let mode = Attributes::mode(0o600);
        root.write(KEY, key.trim_ascii(), mode)?;
        let by_key = || attach(partition, KEY, "headless=true");
        let mut opened = by_key();
        let sealed = opened.is_ok().then(|| seal(root, partition, info));
        if opened.is_ok() && !root.exists(OPENED) {
            // Sealing closed it, and the TPM did not open it.
            opened = by_key();
        }
        root.remove(KEY)?;
        match (opened, sealed) {
            (Ok(()), sealed) => {
                let line = match sealed {
                    Some(Ok(())) | None => "the recovery key opened the state, which is sealed to \
                                            the TPM of this machine now"
                        .to_owned(),
                    Some(Err(error)) => format!(
                        "the recovery key opened the state, which is not sealed to the TPM of this \
                         machine: {error:#}; the next boot asks for the recovery key again"
                    ),
                };
                console::write(root, &format!("firstboot: {line}"));
                return Ok(());
            }
            (Err(error), _) => {
                log::debug!("{error:#}");
                let line = "firstboot: this key does not open the state";
                console::write(root, line);
            }
        }
    }
}

fn screen(root: &Root, reason: &Reason) -> Screen {
    let machine = Identity::read(root).unwrap_or_default();
    let headline = "the TPM of this machine does not open its state";
    let mut screen = Screen::new(headline, root, &machine);
    screen.tried = vec![reason.to_string()];
    screen.advice = vec![
        "type the recovery key of this host, which imagegen keeps in \
         `pki/state/recovery/NAME.key`, or give it as the credential `cryptsetup.passphrase`; then \
         the state is sealed to the TPM of this machine"
            .to_owned(),
    ];
    screen
}

fn ask() -> Result<Vec<u8>> {
    let arguments = [
        "--no-tty",
        "--timeout=0",
        "--id=firstlight-state",
        "Recovery key of this host:",
    ];
    let key = command::output("systemd-ask-password", &arguments);
    Ok(key.context("asking for the recovery key")?.into_bytes())
}

/// Binds the opened state to the TPM of this machine and to no other, and opens it again by that
/// TPM. The recovery key authorises it: the machine has a new board, or its firmware has new keys.
fn seal(root: &Root, partition: &str, info: &StateInfo) -> Result<()> {
    if let Some(obstacle) = obstacle(root, info) {
        return Err(obstacle.into());
    }
    // First, and not in one call with the new binding: systemd-cryptenroll adds none where it finds
    // one to the same policy, though that one is of another TPM. After a power cut between the two
    // the recovery key opens the state.
    command::run("systemd-cryptenroll", &["--wipe-slot=tpm2", partition])?;
    command::run(
        "systemd-cryptenroll",
        &[
            &format!("--unlock-key-file={KEY}"),
            "--tpm2-device=auto",
            &format!("--tpm2-public-key={POLICY_KEY}"),
            &format!("--tpm2-public-key-pcrs={}", header::SIGNED),
            &format!("--tpm2-pcrs={}", info.registers()),
            partition,
        ],
    )?;
    header::ensure_sealed(root, Path::new(partition), info)?;
    // What opens now opens at the next boot too: signature and registers are those of this boot.
    command::run("systemd-cryptsetup", &["detach", NAME])?;
    attach(partition, "none", TPM_OPTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_what_a_person_can_change() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let write = |path: &str, bytes: &[u8]| root.write_volatile(path, bytes).unwrap();
        let bindings = [header::Binding {
            policy_key: b"key\n".to_vec(),
            signed: vec![11],
            fixed: vec![7, 12],
        }];
        let found = || Reason::find(&root, &bindings, "one\ntwo\n'headless'");
        assert_eq!(found(), Reason::NoTpm);
        write("/sys/class/tpm/tpm0/tpm_version_major", b"2\n");
        assert_eq!(found(), Reason::NoPolicy);
        write(SIGNATURE, b"{}");
        write(POLICY_KEY, b"other");
        assert_eq!(Reason::find(&root, &[], ""), Reason::NotSealed);
        assert_eq!(found(), Reason::OtherPolicy);
        write(POLICY_KEY, b"key");
        assert_eq!(found(), Reason::SecureBootOff);
        let on = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        write(on, b"\x06\0\0\0\x01");
        write("/sys/class/tpm/tpm0/pcr-sha256/12", b"01\n");
        assert_eq!(found(), Reason::OutsideArguments);
        write("/sys/class/tpm/tpm0/pcr-sha256/12", b"00\n");
        assert_eq!(found(), Reason::OtherTpm("two".to_owned()));
    }
}
