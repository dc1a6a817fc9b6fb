//! A NoCloud seed disk: a small vfat with the label CIDATA and the three files of a document.
//!
//! The same document gives the same bytes: times are fixed, and the volume id comes from the content.

use std::io::{Cursor, Write as _};

use anyhow::{Context as _, Result, ensure};
use fatfs::{Date, DateTime, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};
use sha2::{Digest as _, Sha256};

use crate::documents::Document;

/// Sizes are multiples of this; also the smallest. cloud-localds makes its seeds this size.
const STEP: usize = 128 * 1024;

const SECTOR: usize = 512;

/// The bytes of a seed disk that carries `document` at its root.
pub fn image(document: &Document) -> Result<Vec<u8>> {
    let files = document.files();
    let mut digest = Sha256::new();
    let mut content = 0;
    for (name, bytes) in files {
        digest.update(name);
        digest.update(bytes);
        content += bytes.len();
    }
    let digest = digest.finalize();
    // Tables, the root folder and each file's last cluster need less than an eighth and 16 KiB.
    let size = (content + content / 8 + 16 * 1024).next_multiple_of(STEP);
    let mut disk = Cursor::new(vec![0; size]);
    let sectors = u32::try_from(size / SECTOR).context("a document of more than a terabyte")?;
    let options = FormatVolumeOptions::new()
        .bytes_per_sector(SECTOR as u16)
        .total_sectors(sectors)
        .volume_label(*b"CIDATA     ")
        .volume_id(u32::from_le_bytes([
            digest[0], digest[1], digest[2], digest[3],
        ]));
    fatfs::format_volume(&mut disk, options).context("formatting a seed")?;
    {
        let options = FsOptions::new().time_provider(&FIXED);
        let volume = FileSystem::new(&mut disk, options).context("opening a seed")?;
        let root = volume.root_dir();
        for (name, bytes) in files {
            let mut file = root
                .create_file(name)
                .with_context(|| format!("creating `{name}` in a seed"))?;
            file.write_all(bytes)
                .with_context(|| format!("writing `{name}` into a seed"))?;
            file.flush()
                .with_context(|| format!("writing `{name}` into a seed"))?;
        }
    }
    let disk = disk.into_inner();
    ensure!(
        disk.len() == size,
        "a seed grew from {size} to {} bytes",
        disk.len()
    );
    Ok(disk)
}

/// The first moment FAT can name.
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
