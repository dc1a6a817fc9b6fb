//! A machine's disk at any moment of its log, without a copy of the image for each moment.
//!
//! The state partition is a sparse file of its own, which e2fsck and debugfs read. All else that
//! the machine has written, such as the partition table and the seed, is kept in memory over the
//! disk as it was flashed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use gpt::disk::LogicalBlockSize;
use gpt::partition::Partition;
use gpt::{GptConfig, header, partition};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::cut::Cut;
use super::log::{Log, SECTOR, Target};
use crate::host::process;
use crate::machine::disk::Extent;

/// Sectors outside the state partition that were written.
type Outside = HashMap<u64, [u8; SECTOR as usize]>;

/// Replays a log from its begin; cuts come in the order of their flushes.
#[derive(Debug)]
pub struct Replay<'a> {
    log: &'a Log,
    base: PathBuf,
    /// Of the state partition, which the first boot makes.
    state: Extent,
    durable: Split,
    /// How many entries are applied.
    done: usize,
}

/// The disk in two parts.
#[derive(Debug)]
struct Split {
    state: Extent,
    file: File,
    path: PathBuf,
    outside: Outside,
}

/// The disk after one cut.
#[derive(Debug)]
pub struct AfterCut {
    base: File,
    split: Split,
}

impl<'a> Replay<'a> {
    /// `base` is the disk before the first boot, `folder` is for the file of the state partition.
    pub fn new(log: &'a Log, base: &Path, state: Extent, folder: &Path) -> Result<Self> {
        let path = folder.join("durable.img");
        let durable = Split::create(path, state)?;
        copy_data(base, state, &durable.file)
            .with_context(|| format!("reading `{}`", base.display()))?;
        Ok(Self {
            log,
            base: base.to_owned(),
            state,
            durable,
            done: 0,
        })
    }

    /// The disk after `cut`. Its state partition is the file `cut.img` in the folder.
    pub fn after(&mut self, cut: &Cut) -> Result<AfterCut> {
        let flushed = cut.flushed(self.log);
        ensure!(flushed >= self.done, "the cuts are not in order");
        for entry in &self.log.entries()[self.done..flushed] {
            self.log.apply(entry, 0, entry.sectors, &mut self.durable)?;
        }
        self.done = flushed;
        let path = self.durable.path.with_file_name("cut.img");
        // cp supports sparse files and reflinks; std::fs::copy fills the holes.
        process::run(
            std::process::Command::new("cp")
                .args(["--sparse=always", "--reflink=auto"])
                .args([&self.durable.path, &path]),
        )?;
        let mut split = Split {
            state: self.state,
            file: File::options().read(true).write(true).open(&path)?,
            path,
            outside: self.durable.outside.clone(),
        };
        cut.apply(self.log, &mut split)?;
        let base =
            File::open(&self.base).with_context(|| format!("opening `{}`", self.base.display()))?;
        Ok(AfterCut { base, split })
    }
}

impl AfterCut {
    /// The file of the state partition.
    pub fn state(&self) -> &Path {
        &self.split.path
    }

    /// The whole disk as a stream.
    pub fn view(&self) -> View<'_> {
        View {
            disk: self,
            at: 0,
            window: None,
            without_primary: false,
        }
    }

    /// The partitions by the first copy of the table, else by the second one, from which the
    /// firmware restores the first.
    pub fn partitions(&self) -> Result<Vec<Partition>> {
        let first = self.table(false);
        let found = first.or_else(|error| {
            self.table(true)
                .with_context(|| format!("the first copy: {error:#}; the second copy"))
        })?;
        Ok(found)
    }

    fn table(&self, second: bool) -> Result<Vec<Partition>> {
        let mut view = self.view();
        let block = LogicalBlockSize::Lb512;
        if second {
            view.without_primary = true;
            let config = GptConfig::new().writable(false).logical_block_size(block);
            let disk = config.open_from_device(&mut view)?;
            return Ok(disk.partitions().values().cloned().collect());
        }
        let header = header::read_header_from_arbitrary_device(&mut view, block)?;
        let table = partition::file_read_partitions(&mut view, &header, block)?;
        Ok(table.into_values().collect())
    }

    /// A partition as a stream.
    pub fn partition(&self, extent: Extent) -> View<'_> {
        View {
            window: Some(extent),
            ..self.view()
        }
    }

    /// Fails if a sector of `extent` was written.
    pub fn assert_unwritten(&self, name: &str, extent: Extent) -> Result<()> {
        let sectors = extent.offset / SECTOR..(extent.offset + extent.length) / SECTOR;
        for sector in self.split.outside.keys() {
            ensure!(
                !sectors.contains(sector),
                "sector {sector} of `{name}` was written"
            );
        }
        Ok(())
    }

    fn read_sector(&self, sector: u64, bytes: &mut [u8; SECTOR as usize]) -> io::Result<()> {
        if let Some(written) = self.split.outside.get(&sector) {
            *bytes = *written;
            return Ok(());
        }
        let at = sector * SECTOR;
        let state = self.split.state;
        if (state.offset..state.offset + state.length).contains(&at) {
            return self.split.file.read_exact_at(bytes, at - state.offset);
        }
        self.base.read_exact_at(bytes, at)
    }
}

impl Split {
    fn create(path: PathBuf, state: Extent) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .with_context(|| format!("creating `{}`", path.display()))?;
        file.set_len(state.length)?;
        Ok(Self {
            state,
            file,
            path,
            outside: Outside::new(),
        })
    }

    /// The part of these sectors in the state partition, as bytes of its file, and the other
    /// sectors.
    fn divide(&self, sector: u64, sectors: u64) -> (Option<(u64, u64, u64)>, Vec<u64>) {
        let first = self.state.offset / SECTOR;
        let last = first + self.state.length / SECTOR;
        let (from, to) = (sector.max(first), (sector + sectors).min(last));
        if from >= to {
            return (None, (sector..sector + sectors).collect());
        }
        let others = (sector..from).chain(to..sector + sectors).collect();
        let inside = ((from - first) * SECTOR, (to - from) * SECTOR, from - sector);
        (Some(inside), others)
    }
}

impl Target for Split {
    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<()> {
        let (inside, others) = self.divide(sector, bytes.len() as u64 / SECTOR);
        if let Some((at, length, skipped)) = inside {
            let from = usize::try_from(skipped * SECTOR)?;
            let bytes = &bytes[from..from + usize::try_from(length)?];
            self.file
                .write_all_at(bytes, at)
                .context("writing the state partition")?;
        }
        for other in others {
            let from = usize::try_from((other - sector) * SECTOR)?;
            let bytes = &bytes[from..from + SECTOR as usize];
            self.outside.insert(other, bytes.try_into()?);
        }
        Ok(())
    }

    fn zero(&mut self, sector: u64, sectors: u64) -> Result<()> {
        let (inside, others) = self.divide(sector, sectors);
        if let Some((at, length, _)) = inside {
            punch(&self.file, at, length)?;
        }
        for other in others {
            self.outside.insert(other, [0; SECTOR as usize]);
        }
        Ok(())
    }
}

/// The whole disk in one file, for a machine to boot from.
impl Target for File {
    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<()> {
        self.write_all_at(bytes, sector * SECTOR)
            .context("writing the disk")
    }

    fn zero(&mut self, sector: u64, sectors: u64) -> Result<()> {
        punch(self, sector * SECTOR, sectors * SECTOR)
    }
}

/// Copies what a part of a sparse file holds to the begin of another one.
fn copy_data(from: &Path, part: Extent, to: &File) -> Result<()> {
    let file = File::open(from)?;
    let end = i64::try_from(part.offset + part.length)?;
    let mut at = i64::try_from(part.offset)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        at = match lseek(&file, at, Whence::SeekData) {
            Ok(data) if data < end => data,
            // There is a hole up to the end.
            Ok(_) | Err(Errno::ENXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let hole = lseek(&file, at, Whence::SeekHole)?.min(end);
        while at < hole {
            let count = buffer.len().min(usize::try_from(hole - at)?);
            let offset = u64::try_from(at)?;
            file.read_exact_at(&mut buffer[..count], offset)?;
            to.write_all_at(&buffer[..count], offset - part.offset)?;
            at += i64::try_from(count)?;
        }
    }
}

fn punch(file: &File, at: u64, length: u64) -> Result<()> {
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, mode, i64::try_from(at)?, i64::try_from(length)?)
        .context("making a hole in the disk's file")
}

/// Makes the raw disk `path` as it is after `cut`.
pub fn write_disk(log: &Log, base: &Path, cut: &Cut, path: &Path) -> Result<()> {
    process::run(
        std::process::Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .args([base, path]),
    )?;
    let mut disk = File::options().read(true).write(true).open(path)?;
    for entry in &log.entries()[..cut.flushed(log)] {
        log.apply(entry, 0, entry.sectors, &mut disk)?;
    }
    cut.apply(log, &mut disk)
}

/// A disk, or a part of it, as a read-only stream.
#[derive(Debug)]
pub struct View<'a> {
    disk: &'a AfterCut,
    at: u64,
    window: Option<Extent>,
    /// The first copy of the partition table reads as zeros.
    without_primary: bool,
}

impl View<'_> {
    fn length(&self) -> io::Result<u64> {
        match self.window {
            Some(window) => Ok(window.length),
            None => Ok(self.disk.base.metadata()?.len()),
        }
    }
}

impl Read for View<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.length()?.saturating_sub(self.at);
        let at = self.at + self.window.map_or(0, |window| window.offset);
        let mut sector = [0; SECTOR as usize];
        let within = usize::try_from(at % SECTOR).unwrap_or_default();
        let count = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX))
            .min(sector.len() - within);
        if count == 0 {
            return Ok(0);
        }
        self.disk.read_sector(at / SECTOR, &mut sector)?;
        if self.without_primary && at / SECTOR == 1 {
            sector.fill(0);
        }
        buffer[..count].copy_from_slice(&sector[within..within + count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for View<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length()?.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Libraries of disk formats ask for it; nothing here writes.
impl Write for View<'_> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes of a partition with this name.
pub fn extent(partitions: &[Partition], name: &str) -> Option<Extent> {
    let found = partitions.iter().find(|partition| partition.name == name)?;
    Some(Extent {
        offset: found.first_lba * SECTOR,
        length: (found.last_lba - found.first_lba + 1) * SECTOR,
    })
}

/// The files at the root of a FAT partition.
pub fn fat_files(view: View<'_>) -> Result<HashMap<String, Vec<u8>>> {
    let volume = fatfs::FileSystem::new(view, fatfs::FsOptions::new())?;
    let mut files = HashMap::new();
    for entry in volume.root_dir().iter() {
        let entry = entry?;
        if entry.is_file() {
            let mut bytes = Vec::new();
            entry.to_file().read_to_end(&mut bytes)?;
            files.insert(entry.file_name().to_lowercase(), bytes);
        }
    }
    Ok(files)
}

/// Fails unless the replay of the whole log gives the disk that QEMU has.
pub fn assert_same(ours: &Path, qemus: &Path, compare: &mut std::process::Command) -> Result<()> {
    let found = compare.args([ours, qemus]).output()?;
    if !found.status.success() {
        bail!(
            "the replay of the log differs from the disk of the machine: {}{}",
            String::from_utf8_lossy(&found.stdout),
            String::from_utf8_lossy(&found.stderr)
        );
    }
    fs::remove_file(ours).with_context(|| format!("removing `{}`", ours.display()))
}
