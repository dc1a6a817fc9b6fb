//! Writes the node image and one host's seed to a disk, or to a file that is the disk of a virtual
//! machine.
//!
//! 1. [`Source`] is the image and the seed, checked against the manifest.
//! 2. [`Target`] is the disk. [`System`] finds out whether the running system uses it; the target
//!    stays open and locked from then on, so that it cannot become another disk while a person
//!    reads the question.
//! 3. [`write()`] wipes, writes, syncs and reads back. The partition table comes last: a disk that
//!    is only partly written has none and does not boot.
//!
//! Disks with sectors of 512 and of 4,096 bytes get a table for their sector size. The image's root
//! and hash tree serve both; FAT volumes are made again for large sectors, because Linux mounts no
//! volume with smaller sectors than the disk's.

mod fat;
mod in_use;
mod layout;
mod pieces;
mod source;
mod system;
mod target;
mod write;

pub use self::source::Source;
pub use self::system::{Disk, System};
pub use self::target::{Kind, Target};
pub use self::write::write;

const MIB: u64 = 1 << 20;

/// A size as people read it on the label of a disk and in a partition table.
pub fn size_text(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    let gb = bytes as f64 / 1e9;
    if bytes < 1 << 30 {
        format!("{} MiB", bytes / MIB)
    } else {
        format!("{gib:.1} GiB ({gb:.1} GB)")
    }
}

/// Reads a size: `20G`, `20GiB`, `20480M` or bytes; units are powers of 1,024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "M" | "MiB" => MIB,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => return Err("the unit is none of M, G and T, powers of 1,024".to_owned()),
    };
    let count: u64 = digits
        .parse()
        .map_err(|_| "write a whole number and a unit, as in 20G".to_owned())?;
    count
        .checked_mul(unit)
        // File sizes are signed.
        .filter(|size| i64::try_from(*size).is_ok())
        .ok_or_else(|| "the size is too large".to_owned())
}

/// Reads a sector size that the image boots from.
pub fn parse_sector(text: &str) -> Result<u64, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("the image boots from sectors of 512 and 4096 bytes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    mod disk;
    mod in_use;
}
