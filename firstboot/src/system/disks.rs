//! Disks and partitions: devices from sysfs, names and ids from the partition table.
//!
//! Not udev's links, because `/dev/disk/by-partlabel` has room for one partition of a name, on any
//! disk. Not `PARTNAME` of sysfs, because the kernel does not know the name of a partition that
//! systemd-repart has just added.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use uuid::Uuid;

use super::files::Root;

const BLOCK: &str = "/sys/class/block";

/// An entry of a partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// As the kernel names the device: `vda2`.
    pub device: String,
    pub name: String,
    pub id: Uuid,
    /// The first byte behind it.
    pub end: u64,
}

/// The block devices below the file system at `path`: of dm-verity, data and hash tree.
pub fn below(root: &Root, path: impl AsRef<Path>) -> Result<Vec<String>> {
    root.list(format!("{}/slaves", numbered(path.as_ref())?))
}

/// The node of the block device with the file system at `path`. That of dm-verity has a name in
/// `/dev/mapper` only where udev has the rules of dmsetup, which the image does not.
pub fn node_of(root: &Root, path: impl AsRef<Path>) -> Result<PathBuf> {
    let entry = numbered(path.as_ref())?;
    let device =
        fs::canonicalize(root.join(&entry)).with_context(|| format!("reading `{entry}`"))?;
    let name = device.file_name().context("a block device has a name")?;
    Ok(Path::new("/dev").join(name.to_string_lossy().replace('!', "/")))
}

/// The entry of sysfs for the block device with the file system at `path`.
fn numbered(path: &Path) -> Result<String> {
    let device = fs::metadata(path)
        .with_context(|| format!("reading `{}`", path.display()))?
        .dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    Ok(format!("/sys/dev/block/{major}:{minor}"))
}

/// With fewer free bytes a file system is full: the next journal file may take them.
const FREE: u64 = 64 << 20;

/// Why the file system at `path` is full, if it is.
pub fn full(path: &str) -> Option<String> {
    let info = nix::sys::statvfs::statvfs(path).ok()?;
    let of_block = |blocks: u64| blocks * info.fragment_size();
    let (free, size) = (of_block(info.blocks_available()), of_block(info.blocks()));
    let no_names = info.files() > 0 && info.files_available() == 0;
    (free < FREE || no_names).then(|| {
        format!(
            "`{path}` is full: {} of {} MiB and {} of {} names are free; remove what no program \
             needs, or give the machine a larger disk",
            free >> 20,
            size >> 20,
            info.files_available(),
            info.files()
        )
    })
}

/// The disk that a partition is on.
pub fn disk_of(root: &Root, partition: &str) -> Option<String> {
    let device = fs::canonicalize(root.join(format!("{BLOCK}/{partition}"))).ok()?;
    let disk = device.parent()?.file_name()?.to_str()?;
    // The parent of a whole disk is a directory named `block`.
    root.exists(format!("{BLOCK}/{disk}"))
        .then(|| disk.to_owned())
}

/// Every disk with a medium.
pub fn disks(root: &Root) -> Result<Vec<String>> {
    let mut disks = root.list(BLOCK)?;
    disks.retain(|name| {
        let read = |file| root.read(format!("{BLOCK}/{name}/{file}")).ok().flatten();
        let virtual_device = ["loop", "ram", "zram", "dm-"]
            .iter()
            .any(|kind| name.starts_with(kind));
        !virtual_device
            && read("partition").is_none()
            && read("size").is_some_and(|size| size.trim_ascii() != b"0")
    });
    Ok(disks)
}

/// The size in bytes; 0 if it is unknown. In sysfs a sector has 512 bytes, whatever the disk says.
pub fn size(root: &Root, disk: &str) -> u64 {
    let text = root.read(format!("{BLOCK}/{disk}/size")).ok().flatten();
    let text = text.unwrap_or_default();
    let sectors = String::from_utf8_lossy(&text).trim().parse::<u64>();
    sectors.unwrap_or(0) * 512
}

/// The partitions that the table of `disk` names and the kernel knows.
pub fn partitions(root: &Root, disk: &str) -> Result<Vec<Partition>> {
    // sysfs writes `!` where the node has a directory.
    let node = root.join(Path::new("/dev").join(disk.replace('!', "/")));
    let sector = root.read(format!("{BLOCK}/{disk}/queue/logical_block_size"))?;
    // The table lies in the second sector and counts in sectors.
    let sector = match sector.as_deref().map(<[u8]>::trim_ascii) {
        Some(b"4096") => LogicalBlockSize::Lb4096,
        _ => LogicalBlockSize::Lb512,
    };
    let table = GptConfig::new()
        .writable(false)
        .logical_block_size(sector)
        .open(&node)
        .with_context(|| format!("reading the partition table of `{}`", node.display()))?;
    let mut found = Vec::new();
    for device in root.list(format!("{BLOCK}/{disk}/"))? {
        let Some(number) = root.read(format!("{BLOCK}/{disk}/{device}/partition"))? else {
            continue;
        };
        let number = String::from_utf8_lossy(&number).trim().parse();
        let entry = number
            .ok()
            .and_then(|number: u32| table.partitions().get(&number));
        if let Some(entry) = entry {
            found.push(Partition {
                device,
                name: entry.name.clone(),
                id: entry.part_guid,
                end: (entry.last_lba + 1) * sector.as_u64(),
            });
        }
    }
    Ok(found)
}
