//! Disks as the kernel describes them in sysfs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// The running system, or a folder that looks like one to tests.
#[derive(Debug, Clone)]
pub struct System {
    root: PathBuf,
}

/// A whole disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's name: `sda`.
    pub name: String,
    pub model: Option<String>,
    pub serial: Option<String>,
    pub size: u64,
    /// Bytes of a logical sector.
    pub sector: u64,
    pub removable: bool,
    pub partitions: Vec<Partition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub name: String,
    /// Its name in a GPT.
    pub label: Option<String>,
    pub size: u64,
}

impl Default for System {
    fn default() -> Self {
        Self::at("/")
    }
}

impl System {
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The folder of a block device.
    pub(super) fn folder(&self, name: &str) -> Option<PathBuf> {
        fs::canonicalize(self.path("sys/class/block").join(name)).ok()
    }

    /// The kernel's name of the block device with a number: `8:1`.
    pub(super) fn name_of_number(&self, number: &str) -> Option<String> {
        let folder = fs::canonicalize(self.path("sys/dev/block").join(number)).ok()?;
        Some(folder.file_name()?.to_str()?.to_owned())
    }

    /// The kernel's name of the block device at a path below `/dev`.
    pub(super) fn name_of_path(&self, path: &str) -> Option<String> {
        let path = fs::canonicalize(self.path(path)).ok()?;
        let meta = fs::metadata(&path).ok()?;
        if meta.file_type().is_block_device() {
            return self.name_of_device(meta.rdev());
        }
        let name = path.file_name()?.to_str()?;
        self.folder(name).map(|_| name.to_owned())
    }

    /// The kernel's name of the device with the number in a file's metadata.
    pub(super) fn name_of_device(&self, device: u64) -> Option<String> {
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        self.name_of_number(&format!("{major}:{minor}"))
    }

    /// The trimmed contents of a file of a device; `None` if it is missing or empty.
    fn read(&self, name: &str, file: &str) -> Option<String> {
        let text = fs::read(self.folder(name)?.join(file)).ok()?;
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    fn number(&self, name: &str, file: &str) -> Option<u64> {
        self.read(name, file)?.parse().ok()
    }

    pub(super) fn entries(&self, name: &str, folder: &str) -> Vec<String> {
        let Some(path) = self.folder(name).map(|path| path.join(folder)) else {
            return Vec::new();
        };
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    pub(super) fn is_partition(&self, name: &str) -> bool {
        self.read(name, "partition").is_some()
    }

    /// The disk of a partition.
    pub(super) fn parent(&self, partition: &str) -> Option<String> {
        let folder = self.folder(partition)?;
        Some(folder.parent()?.file_name()?.to_str()?.to_owned())
    }

    pub(super) fn partitions(&self, disk: &str) -> Vec<String> {
        let mut names = self.entries(disk, "");
        names.retain(|name| self.is_partition(name));
        // By number: `sda10` comes after `sda9`.
        names.sort_by_key(|name| self.number(name, "partition"));
        names
    }

    /// The name that a person gave to a device-mapper volume or an array, else the kernel's.
    pub(super) fn title(&self, name: &str) -> String {
        match self.read(name, "dm/name") {
            Some(title) => format!("{name} (`{title}`)"),
            None => name.to_owned(),
        }
    }

    /// `name` and every device below it: the disk of a partition, the members of a volume.
    pub(super) fn below(&self, name: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            if self.is_partition(&name) {
                open.extend(self.parent(&name));
            }
            open.extend(self.entries(&name, "slaves"));
            if !found.insert(name) {
                // A loop would be a mistake of the kernel; it must not hang us.
                open.retain(|name| !found.contains(name));
            }
        }
        found
    }

    /// The disk with the kernel's name `name`, unless nothing can or must be written to it.
    pub fn disk(&self, name: &str) -> Result<Disk> {
        let device = format!("/dev/{name}");
        ensure!(
            self.folder(name).is_some(),
            "the kernel knows no disk `{name}`"
        );
        if let Some(parent) = self.parent(name).filter(|_| self.is_partition(name)) {
            bail!("`{device}` is a partition; give the whole disk, `/dev/{parent}`");
        }
        let is = |kinds: &[&str]| kinds.iter().any(|kind| name.starts_with(kind));
        ensure!(
            !is(&["dm-", "md"]),
            "`{device}` is a volume of other disks, from which no firmware starts; give a disk"
        );
        ensure!(
            !is(&["zram", "ram", "sr", "fd", "mtdblock"]),
            "`{device}` is not a disk"
        );
        let sectors = self.number(name, "size").unwrap_or(0);
        ensure!(sectors > 0, "`{device}` has no medium");
        ensure!(
            self.number(name, "ro").unwrap_or(0) == 0,
            "`{device}` is read-only; is its switch for write protection on?"
        );
        let sector = self.number(name, "queue/logical_block_size");
        let vendor = self.read(name, "device/vendor");
        let model = self
            .udev(name, "ID_MODEL")
            .or_else(|| self.read(name, "device/model"))
            .or_else(|| self.read(name, "device/name"));
        Ok(Disk {
            name: name.to_owned(),
            // Vendors of PCI are numbers.
            model: match vendor.filter(|vendor| !vendor.starts_with("0x")) {
                Some(vendor) => Some(format!("{vendor} {}", model.unwrap_or_default())),
                None => model,
            },
            serial: self
                .udev(name, "ID_SERIAL_SHORT")
                .or_else(|| self.read(name, "device/serial"))
                .or_else(|| self.read(name, "serial")),
            // In sysfs a sector has 512 bytes, whatever the disk says.
            size: sectors * 512,
            sector: sector.unwrap_or(512),
            removable: self.number(name, "removable") == Some(1),
            partitions: self
                .partitions(name)
                .into_iter()
                .map(|partition| Partition {
                    label: self.property(&partition, "uevent", "PARTNAME"),
                    size: self.number(&partition, "size").unwrap_or(0) * 512,
                    name: partition,
                })
                .collect(),
        })
    }

    fn property(&self, name: &str, file: &str, key: &str) -> Option<String> {
        let text = self.read(name, file)?;
        value(&text, key)
    }

    /// What udev found out: serial numbers of USB and SCSI disks are not text in sysfs.
    fn udev(&self, name: &str, key: &str) -> Option<String> {
        let number = self.read(name, "dev")?;
        let path = self.path("run/udev/data").join(format!("b{number}"));
        let text = fs::read_to_string(path).ok()?;
        value(&text, &format!("E:{key}")).map(|value| value.replace('_', " "))
    }

    /// Disks that a person may mean, for an error message.
    pub fn list(&self) -> Vec<Disk> {
        let entries = fs::read_dir(self.path("sys/class/block")).into_iter();
        let mut names: Vec<_> = entries
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with("loop"))
            .collect();
        names.sort();
        names
            .iter()
            .filter_map(|name| self.disk(name).ok())
            .filter(|disk| self.check_unused(&disk.name).is_ok())
            .collect()
    }

    /// The kernel's name of the block device at `path`, which is a real one.
    pub(super) fn name_of_node(&self, path: &Path) -> Result<String> {
        let meta = fs::metadata(path).with_context(|| format!("opening `{}`", path.display()))?;
        self.name_of_device(meta.rdev())
            .with_context(|| format!("the kernel has no driver for `{}`", path.display()))
    }
}

/// The value of `key` in lines of `key=value`.
fn value(text: &str, key: &str) -> Option<String> {
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.next().map(|value| value.trim().to_owned())
}
