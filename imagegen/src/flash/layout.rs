//! The partition table for a disk's size and sectors.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Read, Result as IoResult, Seek, SeekFrom, Write};

use anyhow::{Context as _, Result, ensure};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use userdata::contract::{ROOT_PARTITION, VERITY_PARTITION};
use uuid::Uuid;

use super::{MIB, Source};
use crate::image::disk::protective_mbr;

/// The first and the last MiB of a disk, which hold the two copies of its table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) front: Vec<u8>,
    pub(super) back: Vec<u8>,
}

/// The image's partitions at the same bytes of a disk with `size` bytes.
///
/// The disk and the partitions get ids of their own, so that two disks with one image differ. The
/// ids of root and hash tree are the root hash, by which the initrd finds them.
pub(super) fn table(source: &Source, size: u64, sector: u64) -> Result<Table> {
    let block = match sector {
        512 => LogicalBlockSize::Lb512,
        4096 => LogicalBlockSize::Lb4096,
        other => anyhow::bail!(
            "the disk has sectors of {other} bytes; the image boots from sectors of 512 and 4,096"
        ),
    };
    let mut entries = BTreeMap::new();
    for (number, entry) in &source.table {
        let (start, length) = Source::extent(entry);
        ensure!(
            start >= MIB && start % sector == 0 && length % sector == 0,
            "the partition `{}` of `{}` does not fit sectors of {sector} bytes",
            entry.name,
            source.path().display()
        );
        let mut entry = entry.clone();
        entry.first_lba = start / sector;
        entry.last_lba = (start + length) / sector - 1;
        if ![ROOT_PARTITION, VERITY_PARTITION].contains(&entry.name.as_str()) {
            entry.part_guid = Uuid::new_v4();
        }
        entries.insert(*number, entry);
    }
    let mut ends = Ends::new(size / sector * sector);
    protective_mbr(size / sector - 1)
        .overwrite_lba0(&mut ends)
        .context("laying out the protective MBR")?;
    let mut disk = GptConfig::new()
        .writable(true)
        .logical_block_size(block)
        .create_from_device(&mut ends, None)
        .context("laying out the partition table")?;
    disk.update_partitions(entries)
        .context("filling the partition table")?;
    disk.write().context("laying out the partition table")?;
    Ok(Table {
        front: ends.front,
        back: ends.back,
    })
}

/// A disk of which only both ends exist; the rest reads as zeros.
#[derive(Debug)]
struct Ends {
    size: u64,
    front: Vec<u8>,
    back: Vec<u8>,
    at: u64,
}

impl Ends {
    fn new(size: u64) -> Self {
        let end = || vec![0; MIB as usize];
        Self {
            size,
            front: end(),
            back: end(),
            at: 0,
        }
    }

    /// The bytes from the position to the end of their part.
    fn rest(&mut self) -> Option<&mut [u8]> {
        let behind = self.size - MIB;
        if self.at < MIB {
            self.front.get_mut(self.at as usize..)
        } else {
            let at = self.at.checked_sub(behind)?;
            self.back.get_mut(at as usize..)
        }
    }
}

impl Read for Ends {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        let count = match self.rest() {
            Some(rest) => {
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                count
            }
            None => {
                buffer.fill(0);
                buffer.len()
            }
        };
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Ends {
    fn write(&mut self, bytes: &[u8]) -> IoResult<usize> {
        let Some(rest) = self.rest() else {
            return Err(Error::other("a partition table in the middle of the disk"));
        };
        let count = rest.len().min(bytes.len());
        rest[..count].copy_from_slice(&bytes[..count]);
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> IoResult<()> {
        Ok(())
    }
}

impl Seek for Ends {
    fn seek(&mut self, to: SeekFrom) -> IoResult<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
