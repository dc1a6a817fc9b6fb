//! The disk or file that is written to, open and locked.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{
    FallocateFlags, FcntlArg, OFlag, PosixFadviseAdvice, fallocate, fcntl, posix_fadvise,
};
use nix::libc;

use super::pieces::Buffer;
use super::{Disk, Source, System, size_text};
use crate::image::vfat::SECTOR;

/// So much of a file may wait in memory: progress would mean nothing otherwise.
const UNSYNCED: u64 = 64 << 20;

#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    kind: Kind,
    size: u64,
    sector: u64,
    /// None until [`begin`](Self::begin) if the file does not exist.
    file: Option<File>,
    unsynced: u64,
    zeroes_in_device: bool,
}

#[derive(Debug)]
pub enum Kind {
    Disk(Disk),
    File { exists: bool },
}

impl Target {
    /// Opens `path`, which must be an unused disk or a file, and must have room for the image.
    /// Writes nothing. `size` is for files only.
    pub fn open(path: &Path, size: Option<u64>, source: &Source, system: &System) -> Result<Self> {
        let shown = path.display();
        let target = match fs::metadata(path) {
            Ok(meta) if meta.file_type().is_block_device() => {
                ensure!(
                    size.is_none(),
                    "--size is for files, and `{shown}` is a disk"
                );
                let disk = system.disk(&system.name_of_node(path)?)?;
                system.check_unused(&disk.name)?;
                Self::new(path, disk.size, disk.sector, Kind::Disk(disk))
            }
            Ok(meta) if meta.is_file() => {
                ensure!(
                    !source.is_output(&meta),
                    "`{shown}` is a result of imagegen and is not overwritten; give another file"
                );
                system.check_not_attached(path)?;
                let size = size.unwrap_or(meta.len());
                ensure!(
                    size >= meta.len(),
                    "`{shown}` has {}, more than --size; remove it first to make it smaller",
                    size_text(meta.len())
                );
                Self::new(path, size, SECTOR, Kind::File { exists: true })
            }
            Ok(_) => bail!("`{shown}` is neither a disk nor a file"),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("opening `{shown}`"));
            }
            Err(_) if path.starts_with("/dev") => {
                bail!("`{shown}` does not exist; {}", candidates(system))
            }
            Err(_) => {
                let Some(size) = size else {
                    bail!(
                        "`{shown}` does not exist; create it with --size, for example --size 20G"
                    );
                };
                let folder = path.parent().filter(|folder| *folder != Path::new(""));
                if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                    bail!("the folder `{}` does not exist", folder.display());
                }
                Self::new(path, size, SECTOR, Kind::File { exists: false })
            }
        };
        let smallest = source.smallest_disk();
        ensure!(
            target.size >= smallest,
            "`{shown}` has {}, and the image needs at least {}: its partitions and 2 GiB for state",
            size_text(target.size),
            size_text(smallest)
        );
        target.lock()
    }

    fn new(path: &Path, size: u64, sector: u64, kind: Kind) -> Self {
        Self {
            path: path.to_owned(),
            // Whole sectors of either size, so that the second table is at the very end.
            size: match kind {
                Kind::Disk(_) => size,
                Kind::File { .. } => size.next_multiple_of(4096),
            },
            kind,
            sector,
            file: None,
            unsynced: 0,
            zeroes_in_device: true,
        }
    }

    /// Opens what exists, and keeps everybody else out.
    fn lock(mut self) -> Result<Self> {
        let shown = self.path.display();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        match &self.kind {
            Kind::File { exists: false } => return Ok(self),
            Kind::File { exists: true } => {}
            // O_EXCL of a disk fails while anything holds it or a partition, in any namespace.
            // O_DIRECT writes to the disk and reads from it, not from memory.
            Kind::Disk(_) => {
                options.custom_flags((OFlag::O_EXCL | OFlag::O_DIRECT).bits());
            }
        }
        let mut file = options
            .open(&self.path)
            .map_err(|error| match error.kind() {
                ErrorKind::ResourceBusy => anyhow::anyhow!(
                    "`{shown}` is in use; `lsblk {shown}` and `fuser -v {shown}` may tell by what"
                ),
                ErrorKind::PermissionDenied => {
                    anyhow::anyhow!("you may not write to `{shown}`; run the command with sudo")
                }
                _ => anyhow::Error::new(error).context(format!("opening `{shown}`")),
            })?;
        let busy = format!("another program works with `{shown}`; try again when it has ended");
        // udev leaves a disk alone as long as it is locked.
        ensure!(file.try_lock().is_ok(), busy);
        match &self.kind {
            Kind::Disk(disk) => {
                let size = file
                    .seek(SeekFrom::End(0))
                    .with_context(|| format!("reading the size of `{shown}`"))?;
                ensure!(
                    size == disk.size,
                    "`{shown}` became another disk just now; look again"
                );
            }
            Kind::File { .. } => {
                ensure!(!is_locked_by_vm(&file), "a virtual machine uses `{shown}`");
            }
        }
        self.file = Some(file);
        Ok(self)
    }

    /// Makes a file the disk of a virtual machine with other sectors. A disk has its own.
    pub fn set_sector(&mut self, sector: u64) -> Result<()> {
        ensure!(
            matches!(self.kind, Kind::File { .. }),
            "--sector-size is for files, and `{}` is a disk with sectors of {} bytes",
            self.path.display(),
            self.sector
        );
        self.sector = sector;
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn sector(&self) -> u64 {
        self.sector
    }

    /// Whether the target is a disk or file that is overwritten.
    pub fn exists(&self) -> bool {
        self.file.is_some()
    }

    /// Creates the file, or empties it, which makes it one hole.
    pub(super) fn begin(&mut self) -> Result<()> {
        let shown = self.path.display();
        if let Kind::Disk(_) = self.kind {
            return Ok(());
        }
        let file = match self.file.take() {
            Some(file) => file,
            // The seed has private keys.
            None => OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&self.path)
                .with_context(|| format!("creating `{shown}`"))?,
        };
        file.set_len(0)
            .and_then(|()| file.set_len(self.size))
            .with_context(|| format!("making `{shown}` {} bytes long", self.size))?;
        self.file = Some(file);
        Ok(())
    }

    fn file(&self) -> Result<&File> {
        self.file.as_ref().context("the target is not open")
    }

    /// Writes aligned bytes. Zeros reach a disk as well: what it had before would fail dm-verity.
    pub(super) fn write_at(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let doing = |path: &Path| format!("writing `{}` at byte {at}", path.display());
        // An optimised comparison of memory, unlike a loop over bytes.
        let is_zero = bytes.first() == Some(&0) && bytes[1..] == bytes[..bytes.len() - 1];
        if is_zero && self.zero(at, bytes.len() as u64)? {
            return Ok(());
        }
        self.file()?
            .write_all_at(bytes, at)
            .with_context(|| doing(&self.path))?;
        self.unsynced += bytes.len() as u64;
        if matches!(self.kind, Kind::File { .. }) && self.unsynced >= UNSYNCED {
            self.sync()?;
        }
        Ok(())
    }

    /// Zeros without sending them; false if the kernel cannot. It guarantees that they are read as
    /// zeros afterwards, unlike after a discard.
    fn zero(&mut self, at: u64, length: u64) -> Result<bool> {
        if let Kind::File { .. } = self.kind {
            return Ok(true);
        }
        if self.zeroes_in_device {
            let (at, length) = (i64::try_from(at)?, i64::try_from(length)?);
            let mode = FallocateFlags::FALLOC_FL_ZERO_RANGE;
            self.zeroes_in_device = fallocate(self.file()?, mode, at, length).is_ok();
        }
        Ok(self.zeroes_in_device)
    }

    pub(super) fn sync(&mut self) -> Result<()> {
        self.file()?
            .sync_all()
            .with_context(|| format!("writing `{}` to the disk", self.path.display()))?;
        self.unsynced = 0;
        Ok(())
    }

    /// Drops what memory has of a file, so that reading asks its disk.
    pub(super) fn drop_cache(&self) -> Result<()> {
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        posix_fadvise(self.file()?, 0, 0, advice)
            .with_context(|| format!("dropping the cache of `{}`", self.path.display()))
    }

    pub(super) fn compare(&self, at: u64, expected: &[u8], buffer: &mut Buffer) -> Result<()> {
        let shown = self.path.display();
        let found = &mut buffer.bytes_mut()[..expected.len()];
        self.file()?
            .read_exact_at(found, at)
            .with_context(|| format!("reading `{shown}` at byte {at}"))?;
        if found != expected {
            let place = found.iter().zip(expected).position(|(a, b)| a != b);
            bail!(
                "`{shown}` does not keep what is written to it: byte {} differs; replace it",
                at + place.unwrap_or(0) as u64
            );
        }
        Ok(())
    }
}

/// QEMU locks some bytes of the images that it has open.
fn is_locked_by_vm(file: &File) -> bool {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let locked = fcntl(file, FcntlArg::F_OFD_SETLK(&whole));
    matches!(locked, Err(Errno::EAGAIN | Errno::EACCES))
}

/// The disks that could be meant.
fn candidates(system: &System) -> String {
    let disks = system.list();
    if disks.is_empty() {
        return "this machine has no unused disk".to_owned();
    }
    let texts: Vec<_> = disks
        .iter()
        .map(|disk| {
            let model = disk.model.as_deref().unwrap_or("unknown model");
            format!("`/dev/{}` ({model}, {})", disk.name, size_text(disk.size))
        })
        .collect();
    format!("unused disks are {}", texts.join(", "))
}

#[cfg(test)]
impl Target {
    /// A file that is treated as a disk with sectors of `sector` bytes.
    pub(super) fn like_disk(path: &Path, sector: u64, zeroes_in_device: bool) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let size = file.metadata()?.len();
        let disk = Disk {
            name: "sdx".to_owned(),
            model: None,
            serial: None,
            size,
            sector,
            removable: false,
            partitions: Vec::new(),
        };
        Ok(Self {
            file: Some(file),
            zeroes_in_device,
            ..Self::new(path, size, sector, Kind::Disk(disk))
        })
    }
}
