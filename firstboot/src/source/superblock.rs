//! Type and label of a file system: vfat and ISO 9660, as far as a NoCloud seed needs.
//!
//! Reads superblocks, because `/dev/disk/by-label` has room for one device of a name, and two disks
//! labelled `cidata` must both be found. Not a file system reader: the kernel mounts.

use std::io::{ErrorKind, Read, Seek, SeekFrom};

use anyhow::Result;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// The kernel's name of the type.
    pub kind: &'static str,
    /// Without trailing spaces; empty when there is none.
    pub label: String,
}

/// `None`: neither vfat nor ISO 9660.
pub fn probe(device: &mut (impl Read + Seek)) -> Result<Option<FileSystem>> {
    if let Some(label) = iso_label(device)? {
        return Ok(Some(FileSystem {
            kind: "iso9660",
            label,
        }));
    }
    Ok(fat_label(device)?.map(|label| FileSystem {
        kind: "vfat",
        label,
    }))
}

/// ECMA-119 8.4: the primary volume descriptor is in sector 16, its identifier at byte 40.
fn iso_label(device: &mut (impl Read + Seek)) -> Result<Option<String>> {
    let Some(sector) = read_at(device, 16 * 2048, 2048)? else {
        return Ok(None);
    };
    Ok((sector[0] == 1 && &sector[1..6] == b"CD001").then(|| text(&sector[40..72])))
}

/// Microsoft's FAT specification: the label is in the root directory's volume entry, else in the
/// boot sector.
fn fat_label(device: &mut (impl Read + Seek)) -> Result<Option<String>> {
    let Some(boot) = read_at(device, 0, 512)? else {
        return Ok(None);
    };
    let word = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let long = |at: usize| {
        u64::from(u32::from_le_bytes([
            boot[at],
            boot[at + 1],
            boot[at + 2],
            boot[at + 3],
        ]))
    };
    let (sector, per_cluster, reserved, fats) =
        (word(11), u64::from(boot[13]), word(14), u64::from(boot[16]));
    let sane = boot[510..512] == [0x55, 0xaa]
        && matches!(sector, 512 | 1024 | 2048 | 4096)
        && per_cluster.is_power_of_two()
        && reserved > 0
        && matches!(fats, 1 | 2);
    if !sane {
        return Ok(None);
    }
    let (entries, fat16_size) = (word(17), word(22));
    // FAT32 has no fixed root directory, and keeps the size of a FAT in another field.
    let fat32 = fat16_size == 0;
    let name_at = if fat32 { 71 } else { 43 };
    if boot[name_at - 5] != 0x29 {
        return Ok(None);
    }
    let fat_size = if fat32 { long(36) } else { fat16_size };
    let after_fats = reserved + fats * fat_size;
    let (root_at, root_len) = if fat32 {
        // Its first cluster is enough: mkfs writes the label first.
        (
            (after_fats + long(44).saturating_sub(2) * per_cluster) * sector,
            per_cluster * sector,
        )
    } else {
        (after_fats * sector, entries * 32)
    };
    if let Some(root) = read_at(device, root_at, usize::try_from(root_len)?)? {
        for entry in root.chunks_exact(32).take_while(|entry| entry[0] != 0) {
            let (deleted, volume) = (entry[0] == 0xe5, entry[11] & 0x3f == 0x08);
            if volume && !deleted {
                return Ok(Some(text(&entry[..11])));
            }
        }
    }
    let name = text(&boot[name_at..name_at + 11]);
    Ok(Some(if name == "NO NAME" {
        String::new()
    } else {
        name
    }))
}

/// `None` when the device ends before.
fn read_at(device: &mut (impl Read + Seek), at: u64, length: usize) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; length];
    device.seek(SeekFrom::Start(at))?;
    match device.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim_end_matches([' ', '\0'])
        .to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use fatfs::{FatType, FormatVolumeOptions, format_volume};

    use super::*;

    #[test]
    fn every_fat_that_fatfs_makes_shows_its_label() {
        for (fat, size) in [
            (FatType::Fat12, 1 << 20),
            (FatType::Fat16, 16 << 20),
            (FatType::Fat32, 64 << 20),
        ] {
            let mut disk = Cursor::new(vec![0; size]);
            let options = FormatVolumeOptions::new()
                .fat_type(fat)
                .volume_label(*b"CIDATA     ");
            format_volume(&mut disk, options).unwrap();
            let found = probe(&mut disk).unwrap();
            assert_eq!(
                found,
                Some(FileSystem {
                    kind: "vfat",
                    label: "CIDATA".into()
                }),
                "{fat:?}"
            );
        }
    }

    #[test]
    fn an_iso_shows_its_label() {
        let mut disk = vec![0; 17 * 2048];
        disk[16 * 2048..16 * 2048 + 6].copy_from_slice(b"\x01CD001");
        disk[16 * 2048 + 40..16 * 2048 + 72].copy_from_slice(b"cidata                          ");
        let found = probe(&mut Cursor::new(disk)).unwrap();
        assert_eq!(
            found,
            Some(FileSystem {
                kind: "iso9660",
                label: "cidata".into()
            })
        );
    }

    #[test]
    fn other_disks_are_neither() {
        let mut boot_record = vec![0; 1 << 16];
        boot_record[510..512].copy_from_slice(&[0x55, 0xaa]);
        for disk in [vec![], vec![0; 100], vec![0xff; 1 << 16], boot_record] {
            assert_eq!(probe(&mut Cursor::new(disk)).unwrap(), None);
        }
    }
}
