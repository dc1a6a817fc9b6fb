//! Power cuts at any moment of a boot, from one recording of all writes of a disk.
//!
//! A boot takes minutes under emulation. So a cluster forms once, while QEMU logs what each machine
//! writes and when it flushes ([`recording`], [`log`]). From the log follows what the disk may hold
//! after a power cut at any moment ([`cut`], [`disk`]), and its file system and files are judged
//! without a boot ([`ext4`], [`judge`]). [`plan`] spreads the cuts over the steps of firstboot, and
//! [`campaign`] runs them. [`form`] makes recordings, and boots machines from a few of the disks.
//! [`attached`] records a program of the host in place of a machine.

pub mod attached;
pub mod campaign;
pub mod cut;
pub mod disk;
pub mod ext4;
pub mod form;
pub mod judge;
pub mod log;
pub mod plan;
pub mod recording;

use anyhow::{Context, Result, ensure};

/// A number from an environment variable, else `default`.
pub fn number(variable: &str, default: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(text) if !text.is_empty() => {
            let number = text.parse();
            number.with_context(|| format!("{variable} is `{text}`, not a number"))
        }
        _ => Ok(default),
    }
}

/// `FIRSTLIGHT_SECTOR`: the bytes that a disk writes completely or not at all, as
/// [`cut::Cut::unit`].
pub fn unit() -> Result<u64> {
    let bytes = number("FIRSTLIGHT_SECTOR", 4096)?;
    ensure!(
        [512, 4096].contains(&bytes),
        "FIRSTLIGHT_SECTOR is {bytes}; physical sectors have 512 or 4096 bytes"
    );
    Ok(u64::try_from(bytes)? / log::SECTOR)
}
