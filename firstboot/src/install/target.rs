//! The disk to install on: never a partition, one in use, a read-only or a small one.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::system::disks;
use crate::system::files::Root;

const MIB: u64 = 1 << 20;

#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    name: String,
    size: u64,
    sector: u64,
    model: String,
    serial: String,
    /// Opened exclusively: the kernel refuses mounts while it is.
    file: RefCell<Option<File>>,
}

impl Target {
    /// Opens the disk at `path`, which needs `least` bytes.
    pub fn open(root: &Root, path: &Path, least: u64) -> Result<Self> {
        let shown = path.display();
        let real = fs::canonicalize(path)
            .with_context(|| format!("opening `{shown}`; the disks are {}", known(root)))?;
        let kind = fs::metadata(&real).with_context(|| format!("opening `{shown}`"))?;
        ensure!(
            kind.file_type().is_block_device(),
            "`{shown}` is not a disk; the disks are {}",
            known(root)
        );
        // sysfs writes `!` where the node has a directory.
        let name = real.strip_prefix("/dev").unwrap_or(&real);
        let name = name.to_string_lossy().replace('/', "!");
        let read = |file: &str| -> Result<String> {
            let bytes = root.read(format!("/sys/class/block/{name}/{file}"))?;
            let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
            Ok(text.trim().to_owned())
        };
        ensure!(
            disks::disks(root)?.contains(&name),
            "`{shown}` is a partition or no disk of its own; the disks are {}",
            known(root)
        );
        ensure!(read("ro")? != "1", "`{shown}` is read-only");
        let size = read("size")?.parse::<u64>().unwrap_or(0) * 512;
        ensure!(
            size >= least,
            "`{shown}` has {} MiB; the image, and state of 2 GiB, take {} MiB",
            size / MIB,
            least.div_ceil(MIB)
        );
        let sector = read("queue/logical_block_size")?.parse().unwrap_or(512);
        ensure!(
            [512, 4096].contains(&sector),
            "`{shown}` has sectors of {sector} bytes; the image boots from 512 and 4,096"
        );
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_EXCL)
            .open(&real);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => bail!(
                "`{shown}` is in use: a partition of it is mounted, swap, or part of a volume; if \
                 it has this machine's state, boot without `image.diskless.blank_disks`"
            ),
            Err(error) => return Err(error).with_context(|| format!("opening `{shown}`")),
        };
        let text = |file: &str| match read(file) {
            Ok(text) if !text.is_empty() => text,
            _ => "unknown".to_owned(),
        };
        Ok(Self {
            path: real,
            size,
            sector,
            model: text("device/model"),
            serial: match text("device/serial") {
                none if none == "unknown" => text("serial"),
                serial => serial,
            },
            name,
            file: RefCell::new(Some(file)),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As sysfs names it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn sector(&self) -> u64 {
        self.sector
    }

    /// What is about to be lost.
    pub fn description(&self) -> String {
        format!(
            "{}\n  model    {}\n  serial   {}\n  size     {} MiB, sectors of {} bytes\n",
            self.path.display(),
            self.model,
            self.serial,
            self.size / MIB,
            self.sector
        )
    }

    /// Wipes both ends, where partition tables are.
    pub fn clear(&self) -> Result<()> {
        let doing = || format!("wiping the partition table of `{}`", self.path.display());
        let mut held = self.file.borrow_mut();
        let file = match held.take() {
            Some(file) => file,
            None => OpenOptions::new()
                .write(true)
                .open(&self.path)
                .with_context(doing)?,
        };
        let zeros = vec![0; MIB as usize];
        for at in [0, self.size - MIB] {
            file.write_all_at(&zeros, at).with_context(doing)?;
        }
        file.sync_all().with_context(doing)?;
        *held = Some(file);
        Ok(())
    }

    /// Lets another program open the disk.
    pub fn release(&self) {
        drop(self.file.borrow_mut().take());
    }

    /// The node of the partition with this name.
    pub fn partition(&self, root: &Root, label: &str) -> Result<PathBuf> {
        let partitions = disks::partitions(root, &self.name)?.into_iter();
        let mut found = partitions.filter(|partition| partition.name == label);
        let found = found.next();
        let found = found
            .with_context(|| format!("`{}` has no partition `{label}`", self.path.display()))?;
        Ok(Path::new("/dev").join(found.device.replace('!', "/")))
    }
}

/// Every disk with its size, for an error message.
fn known(root: &Root) -> String {
    let mut texts = Vec::new();
    for name in disks::disks(root).unwrap_or_default() {
        let size = root.read(format!("/sys/class/block/{name}/size"));
        let size = size.ok().flatten().unwrap_or_default();
        let size = String::from_utf8_lossy(&size).trim().parse().unwrap_or(0) * 512 / MIB;
        texts.push(format!("/dev/{} ({size} MiB)", name.replace('!', "/")));
    }
    match texts.is_empty() {
        true => "none".to_owned(),
        false => texts.join(", "),
    }
}
