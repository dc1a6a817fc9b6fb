//! Makes a FAT volume again for another sector size: Linux mounts none whose sectors are smaller
//! than the disk's.

use std::io::{Cursor, Read as _, Write as _};

use anyhow::{Context as _, Result, ensure};
use fatfs::{Dir, FileSystem, FormatVolumeOptions, FsOptions};

/// The volume that is read, and the one that is written.
type Old = Cursor<Vec<u8>>;
type New<'a> = &'a mut Cursor<Vec<u8>>;

/// A volume of `size` bytes with label, id and files of `volume`, in sectors of `sector` bytes.
pub(super) fn rebuild(volume: Vec<u8>, size: u64, sector: u64) -> Result<Vec<u8>> {
    let old =
        FileSystem::new(Cursor::new(volume), FsOptions::new()).context("opening the volume")?;
    let label = old.volume_label();
    let mut padded = [b' '; 11];
    ensure!(label.len() <= padded.len(), "the label is too long");
    padded[..label.len()].copy_from_slice(label.as_bytes());
    let length = usize::try_from(size).context("a volume larger than memory")?;
    let mut bytes = Cursor::new(vec![0; length]);
    let options = FormatVolumeOptions::new()
        .bytes_per_sector(u16::try_from(sector).context("the sectors are too large")?)
        .total_sectors(u32::try_from(size / sector).context("the volume is too large")?)
        .volume_label(padded)
        .volume_id(old.volume_id());
    fatfs::format_volume(&mut bytes, options).context("formatting the volume")?;
    let new = FileSystem::new(&mut bytes, FsOptions::new()).context("opening the new volume")?;
    copy(&old.root_dir(), &new.root_dir())?;
    new.unmount().context("closing the new volume")?;
    Ok(bytes.into_inner())
}

fn copy(from: &Dir<'_, Old>, to: &Dir<'_, New<'_>>) -> Result<()> {
    for entry in from.iter() {
        let entry = entry.context("reading a folder")?;
        let name = entry.file_name();
        if [".", ".."].contains(&name.as_str()) {
            continue;
        }
        let doing = || format!("copying `{name}`");
        if entry.is_dir() {
            copy(&entry.to_dir(), &to.create_dir(&name).with_context(doing)?)?;
            continue;
        }
        let mut bytes = Vec::new();
        entry
            .to_file()
            .read_to_end(&mut bytes)
            .with_context(doing)?;
        let mut file = to.create_file(&name).with_context(doing)?;
        file.write_all(&bytes)
            .and_then(|()| file.flush())
            .with_context(doing)?;
    }
    Ok(())
}
