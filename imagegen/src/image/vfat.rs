//! Writes FAT volumes for the ESP and NoCloud seeds; equal files give equal bytes.

use std::io::{Read, Seek, Write};

use anyhow::{Context as _, Result, ensure};
use fatfs::{Date, DateTime, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};

/// The sectors of images and seeds, those of the most common disks.
pub(crate) const SECTOR: u64 = 512;

/// Formats `disk`, which has `size` bytes, as the volume `label` and writes `files`.
pub fn write<D: Read + Write + Seek>(
    disk: &mut D,
    size: u64,
    label: &str,
    id: u32,
    files: &[(&str, &[u8])],
) -> Result<()> {
    write_in_sectors(disk, size, SECTOR, label, id, files)
}

/// [`write()`] in sectors of `sector` bytes: Linux mounts no volume whose sectors are smaller than
/// the disk's.
pub(crate) fn write_in_sectors<D: Read + Write + Seek>(
    disk: &mut D,
    size: u64,
    sector: u64,
    label: &str,
    id: u32,
    files: &[(&str, &[u8])],
) -> Result<()> {
    ensure!(
        label.len() <= 11 && label.is_ascii(),
        "`{label}` is not a FAT label, which has at most 11 ASCII characters"
    );
    let mut padded = [b' '; 11];
    padded[..label.len()].copy_from_slice(label.to_ascii_uppercase().as_bytes());
    let sectors = u32::try_from(size / sector).context("a FAT volume of more than 2 TiB")?;
    let options = FormatVolumeOptions::new()
        .bytes_per_sector(u16::try_from(sector).context("the sectors are too large")?)
        .total_sectors(sectors)
        .volume_label(padded)
        .volume_id(id);
    fatfs::format_volume(&mut *disk, options)
        .with_context(|| format!("formatting the volume `{label}`"))?;
    let volume = FileSystem::new(&mut *disk, FsOptions::new().time_provider(&FIXED))
        .with_context(|| format!("opening the volume `{label}`"))?;
    for (path, bytes) in files {
        let mut folder = volume.root_dir();
        let mut parts: Vec<&str> = path.split('/').collect();
        let name = parts.pop().unwrap_or(path);
        for part in parts {
            folder = folder
                .create_dir(part)
                .with_context(|| format!("creating the folders of `{path}`"))?;
        }
        let mut file = folder
            .create_file(name)
            .with_context(|| format!("creating `{path}`"))?;
        file.write_all(bytes)
            .and_then(|()| file.flush())
            .with_context(|| {
                format!(
                    "writing `{path}` ({} bytes) into the volume `{label}` of {size} bytes",
                    bytes.len()
                )
            })?;
    }
    Ok(())
}

/// The earliest time of FAT, for equal bytes.
#[derive(Debug)]
struct Fixed;

static FIXED: Fixed = Fixed;

impl TimeProvider for Fixed {
    fn get_current_date(&self) -> Date {
        Date {
            year: 1980,
            month: 1,
            day: 1,
        }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime {
            date: self.get_current_date(),
            time: Time {
                hour: 0,
                min: 0,
                sec: 0,
                millis: 0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn equal_files_give_equal_readable_volumes() -> Result<()> {
        let make = || -> Result<Vec<u8>> {
            let mut disk = Cursor::new(vec![0; 1 << 20]);
            write(
                &mut disk,
                1 << 20,
                "cidata",
                7,
                &[("user-data", b"#cloud-config\n"), ("EFI/BOOT/a.efi", b"x")],
            )?;
            Ok(disk.into_inner())
        };
        let (first, second) = (make()?, make()?);
        assert!(first == second);
        let volume = FileSystem::new(Cursor::new(first), FsOptions::new())?;
        assert_eq!(volume.volume_label(), "CIDATA");
        let mut text = String::new();
        volume
            .root_dir()
            .open_file("user-data")?
            .read_to_string(&mut text)?;
        assert_eq!(text, "#cloud-config\n");
        Ok(())
    }

    #[test]
    fn file_that_does_not_fit_is_named() {
        let mut disk = Cursor::new(vec![0; 128 * 1024]);
        let error = write(
            &mut disk,
            128 * 1024,
            "X",
            1,
            &[("big", &vec![0; 200 * 1024])],
        )
        .expect_err("too big");
        assert!(format!("{error:#}").contains("`big`"), "{error:#}");
    }
}
