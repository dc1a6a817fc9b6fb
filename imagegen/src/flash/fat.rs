//! Makes a FAT volume again for another sector size: Linux mounts none whose sectors are smaller
//! than the disk's.

use std::io::{Cursor, Error, ErrorKind, Read, Result as IoResult, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};
use fatfs::{Dir, FileSystem, FsOptions, ReadWriteSeek};

use crate::image::vfat;

/// A volume of `size` bytes with label, id and files of `volume`, in sectors of `sector` bytes.
pub(super) fn rebuild(volume: impl ReadWriteSeek, size: u64, sector: u64) -> Result<Vec<u8>> {
    let old = FileSystem::new(volume, FsOptions::new()).context("opening the volume")?;
    let mut files = Vec::new();
    read(&old.root_dir(), "", &mut files)?;
    let files: Vec<_> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    let length = usize::try_from(size).context("a volume larger than memory")?;
    let mut new = Cursor::new(vec![0; length]);
    vfat::write_in_sectors(
        &mut new,
        size,
        sector,
        &old.volume_label(),
        old.volume_id(),
        &files,
    )?;
    Ok(new.into_inner())
}

/// Path and bytes of every file below `folder`.
fn read<D: ReadWriteSeek>(
    folder: &Dir<'_, D>,
    path: &str,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    for entry in folder.iter() {
        let entry = entry.context("reading a folder")?;
        let name = entry.file_name();
        if [".", ".."].contains(&name.as_str()) {
            continue;
        }
        let path = match path {
            "" => name,
            folder => format!("{folder}/{name}"),
        };
        if entry.is_dir() {
            read(&entry.to_dir(), &path, files)?;
            continue;
        }
        let mut bytes = Vec::new();
        entry
            .to_file()
            .read_to_end(&mut bytes)
            .with_context(|| format!("reading `{path}`"))?;
        files.push((path, bytes));
    }
    Ok(())
}

/// A part of a file, for reading: most of the image's large volume is empty and need not be in
/// memory.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub(super) file: &'a std::fs::File,
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) at: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        let left = self.length.saturating_sub(self.at);
        let count = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = self
            .file
            .read_at(&mut buffer[..count], self.start + self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

impl Seek for Part<'_> {
    fn seek(&mut self, to: SeekFrom) -> IoResult<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

/// fatfs opens volumes for writing only.
impl Write for Part<'_> {
    fn write(&mut self, _: &[u8]) -> IoResult<usize> {
        Err(Error::from(ErrorKind::ReadOnlyFilesystem))
    }

    fn flush(&mut self) -> IoResult<()> {
        Ok(())
    }
}
