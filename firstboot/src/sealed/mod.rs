//! Encrypted state: LUKS2, whose key the machine's TPM seals to the signed policy of the kernel
//! image.
//!
//! In the initrd, [`make`] makes the partition on the first boot and [`open`] opens it on every
//! boot; both run programs of systemd. In the running system `step::recovery_key` enrols the
//! document's recovery key and removes the first one.

pub mod header;
pub mod make;
pub mod open;

use std::fmt;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use userdata::contract::{POLICY_KEY, STATE_FILE};
use userdata::state_info::{Encryption, StateInfo};

use crate::state_partition::SYSROOT;
use crate::system::files::Root;

/// The path of the encrypted partition, for the running system. On a tmpfs.
pub const PARTITION: &str = "/run/firstlight/sealed-partition";
/// Opens the state until the recovery key is enrolled: `state.repart.conf` of imagegen copies it
/// there.
pub const FIRST_KEY: &str = "/var/lib/firstlight/state.key";

/// Why the initrd stopped, for the screen. On a tmpfs.
const OBSTACLE: &str = "/run/firstlight/obstacle.json";
const TPM: &str = "/sys/class/tpm/tpm0";
const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// systemd-stub sets it when the firmware's TPM has measured the kernel image.
const MEASURED: &str = "StubPcrKernelImage-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
const SECURE_BOOT: &str = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Why this machine cannot have or use encrypted state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Obstacle {
    NoTpm,
    NotMeasured,
    SecureBootOff,
    /// Register 12 is not zero.
    OutsideArguments,
    /// The image asks for encryption, and the partition has none.
    Plain(String),
    /// The partition is encrypted, and the image does not expect that.
    Encrypted(String),
    /// What the TPM has just sealed does not open.
    Unusable(String),
}

impl Obstacle {
    /// What to do.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoTpm => {
                "switch on the TPM 2.0 in the firmware's settings (it may be called PTT or fTPM), \
                 or add one; or make the image with `image: {state: {encrypt: none}}`"
            }
            Self::NotMeasured => {
                "switch on the TPM 2.0 in the firmware's settings, and boot the image by UEFI from \
                 this disk, without another boot loader"
            }
            Self::SecureBootOff => {
                "enrol `db.der` of imagegen's output in the firmware and switch Secure Boot on; \
                 then start the machine again"
            }
            Self::OutsideArguments => {
                "remove kernel arguments in SMBIOS strings, and add-ons and credentials on the \
                 ESP; then start the machine again"
            }
            Self::Plain(_) => {
                "write the disk again with `imagegen flash`, which starts this host without its \
                 state; or use an image with `image: {state: {encrypt: none}}`"
            }
            Self::Encrypted(_) => {
                "use an image with `image: {state: {encrypt: tpm2}}` of the same output folder; or \
                 write the disk again with `imagegen flash`, which starts this host without its \
                 state"
            }
            Self::Unusable(_) => {
                "write the disk again with `imagegen flash`; if it happens again, update the \
                 machine's firmware"
            }
        }
    }

    /// Keeps it for [`Obstacle::read`].
    fn record(&self, root: &Root) {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        if let Err(error) = root.write_volatile(OBSTACLE, &bytes) {
            log::warn!("{error:#}");
        }
    }

    /// The obstacle at which this boot stopped.
    pub fn read(root: &Root) -> Option<Self> {
        let bytes = root.read(OBSTACLE).ok()??;
        serde_json::from_slice(&bytes).ok()
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTpm => f.write_str(
                "this image encrypts state with a TPM 2.0, and this machine has none that works",
            ),
            Self::NotMeasured => f.write_str(
                "the firmware did not measure the kernel image into the TPM, so that state cannot \
                 be sealed to it",
            ),
            Self::SecureBootOff => {
                f.write_str("this image seals state to Secure Boot, which is off on this machine")
            }
            Self::OutsideArguments => f.write_str(
                "the kernel has arguments or credentials from outside the signed image, to which \
                 state is never sealed",
            ),
            Self::Plain(device) => write!(
                f,
                "the state on {device} is not encrypted, and this image uses encrypted state only"
            ),
            Self::Encrypted(device) => write!(
                f,
                "the state on {device} is encrypted, and this image does not use encrypted state"
            ),
            Self::Unusable(why) => write!(f, "the TPM does not open what it has sealed: {why}"),
        }
    }
}

impl std::error::Error for Obstacle {}

/// How the image keeps its state; `None` without encryption.
pub(crate) fn info(root: &Root) -> Result<Option<StateInfo>> {
    let path = format!("{SYSROOT}{STATE_FILE}");
    let Some(bytes) = root.read(&path)? else {
        return Ok(None);
    };
    let info: StateInfo =
        serde_json::from_slice(&bytes).with_context(|| format!("reading `{path}`"))?;
    Ok((info.encrypt != Encryption::None).then_some(info))
}

/// Why state cannot be sealed on this machine now.
fn obstacle(root: &Root, info: &StateInfo) -> Option<Obstacle> {
    if !has_tpm(root) {
        return Some(Obstacle::NoTpm);
    }
    if !root.exists(POLICY_KEY) || !root.exists(format!("{VARIABLES}/{MEASURED}")) {
        return Some(Obstacle::NotMeasured);
    }
    if info.secure_boot && !is_secure_boot_on(root) {
        return Some(Obstacle::SecureBootOff);
    }
    (info.secure_boot && has_outside_arguments(root)).then_some(Obstacle::OutsideArguments)
}

fn has_tpm(root: &Root) -> bool {
    let version = root.read(format!("{TPM}/tpm_version_major"));
    let version = version.ok().flatten().unwrap_or_default();
    version.trim_ascii() == b"2"
}

fn is_secure_boot_on(root: &Root) -> bool {
    let value = root.read(format!("{VARIABLES}/{SECURE_BOOT}")).ok();
    // Four bytes of attributes are first.
    value
        .flatten()
        .is_some_and(|bytes| bytes.get(4) == Some(&1))
}

fn has_outside_arguments(root: &Root) -> bool {
    let value = root.read(format!("{TPM}/pcr-sha256/12")).ok().flatten();
    let value = value.unwrap_or_default();
    value.trim_ascii().iter().any(|digit| *digit != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: StateInfo = StateInfo {
        encrypt: Encryption::Tpm2,
        secure_boot: true,
    };

    /// Each condition in the order in which a person meets it.
    #[test]
    fn first_missing_condition_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let write = |path: &str, bytes: &[u8]| root.write_volatile(path, bytes).unwrap();
        let found = |info: &StateInfo| obstacle(&root, info);
        assert_eq!(found(&SIGNED), Some(Obstacle::NoTpm));
        write(&format!("{TPM}/tpm_version_major"), b"1\n");
        assert_eq!(found(&SIGNED), Some(Obstacle::NoTpm));
        write(&format!("{TPM}/tpm_version_major"), b"2\n");
        assert_eq!(found(&SIGNED), Some(Obstacle::NotMeasured));
        write(&format!("{VARIABLES}/{MEASURED}"), b"\x06\0\0\x001\x001\0");
        write(POLICY_KEY, b"key");
        assert_eq!(found(&SIGNED), Some(Obstacle::SecureBootOff));
        let unsigned = StateInfo {
            secure_boot: false,
            ..SIGNED
        };
        assert_eq!(found(&unsigned), None);
        write(&format!("{VARIABLES}/{SECURE_BOOT}"), b"\x06\0\0\0\x01");
        write(&format!("{TPM}/pcr-sha256/12"), b"00A0\n");
        assert_eq!(found(&SIGNED), Some(Obstacle::OutsideArguments));
        write(&format!("{TPM}/pcr-sha256/12"), b"0000\n");
        assert_eq!(found(&SIGNED), None);
    }

    #[test]
    fn obstacle_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(Obstacle::read(&root), None);
        let obstacle = Obstacle::Plain("/dev/vda5".to_owned());
        obstacle.record(&root);
        assert_eq!(Obstacle::read(&root), Some(obstacle));
    }
}
