//! The partitions of a node's disk, as `imagegen` makes them in an image, for systemd-repart.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use userdata::contract::{ESP_PARTITION, ROOT_PARTITION, SEED_PARTITION, VERITY_PARTITION};

use crate::system::disks;
use crate::system::files::Root;

const MIB: u64 = 1 << 20;
/// Two of the largest kernels. FAT32 with sectors of 512 and of 4,096 bytes.
pub const ESP_SIZE: u64 = 512 * MIB;
pub const SEED_SIZE: u64 = 32 * MIB;
/// Room for a larger root in a slot.
const HEADROOM: u64 = 256 * MIB;
/// The least of a state partition, which the first boot makes.
const STATE: u64 = 2 << 30;

/// The hash tree in memory.
const TREE_DEVICE: &str = "/dev/disk/by-loop-ref/firstlight-tree";

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub label: &'static str,
    kind: &'static str,
    uuid: Option<String>,
    size: u64,
    pub source: Option<PathBuf>,
}

/// Sizes of root and hash tree, and the root hash.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Of dm-verity.
    root_device: PathBuf,
    root: u64,
    tree: u64,
    root_hash: String,
}

impl Plan {
    /// Of the root that runs.
    pub fn of(root: &Root, root_hash: &str) -> Result<Self> {
        ensure!(
            root_hash.len() == 64 && root_hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "the kernel's command line has no `roothash=`"
        );
        let size = |node: &Path| -> Result<u64> {
            let doing = || format!("reading the size of `{}`", node.display());
            let device = fs::canonicalize(root.join(node)).with_context(doing)?;
            let name = device.file_name().with_context(doing)?.to_string_lossy();
            let bytes = root.read(format!("/sys/class/block/{name}/size"))?;
            let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
            // sysfs counts in 512 bytes.
            Ok(text.trim().parse::<u64>().with_context(doing)? * 512)
        };
        let root_device = disks::node_of(root, "/")?;
        Ok(Self {
            root: size(&root_device)?,
            tree: size(Path::new(TREE_DEVICE))?,
            root_device,
            root_hash: root_hash.to_owned(),
        })
    }

    fn slots(&self) -> (u64, u64) {
        let root = (self.root + HEADROOM).next_multiple_of(64 * MIB);
        (root, self.tree.max(root / 100).next_multiple_of(MIB))
    }

    /// In bytes.
    pub fn smallest_disk(&self) -> u64 {
        let (root, tree) = self.slots();
        ESP_SIZE + 2 * (root + tree) + SEED_SIZE + STATE + 4 * MIB
    }

    /// In the order of the disk.
    pub fn parts(&self, esp: &Path, seed: &Path) -> Vec<Part> {
        let (root, tree) = self.slots();
        let part = |label, kind, size, source: Option<&Path>| Part {
            label,
            kind,
            uuid: None,
            size,
            source: source.map(Path::to_owned),
        };
        let mut parts = vec![
            part(ESP_PARTITION, "esp", ESP_SIZE, Some(esp)),
            part(ROOT_PARTITION, "root-x86-64", root, Some(&self.root_device)),
            part(
                VERITY_PARTITION,
                "root-x86-64-verity",
                tree,
                Some(Path::new(TREE_DEVICE)),
            ),
            // Free for a later version.
            part("_empty", "root-x86-64", root, None),
            part("_empty", "root-x86-64-verity", tree, None),
            part(
                SEED_PARTITION,
                "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
                SEED_SIZE,
                Some(seed),
            ),
        ];
        // By these ids, the halves of the root hash, the initrd finds both.
        parts[1].uuid = Some(half(&self.root_hash[..32]));
        parts[2].uuid = Some(half(&self.root_hash[32..]));
        parts
    }
}

/// 32 digits as a UUID is written.
fn half(digits: &str) -> String {
    let cut = [0..8, 8..12, 12..16, 16..20, 20..32];
    cut.map(|range| &digits[range]).join("-")
}

impl Part {
    /// In the form of repart.d(5).
    pub fn definition(&self) -> String {
        let mut text = format!(
            "[Partition]\nType={}\nLabel={}\nSizeMinBytes={}\nSizeMaxBytes={}\n",
            self.kind, self.label, self.size, self.size
        );
        if let Some(uuid) = &self.uuid {
            text += &format!("UUID={uuid}\n");
        }
        if self.kind.starts_with("root") {
            text += "ReadOnly=yes\n";
        }
        if let Some(source) = &self.source {
            text += &format!("CopyBlocks={}\n", source.display());
        }
        text
    }
}

/// Makes the file `out` a FAT volume with these files. Unused parts are holes.
pub fn volume(
    out: &Path,
    size: u64,
    sector: u64,
    label: &str,
    files: &[(&str, &[u8])],
) -> Result<()> {
    let mut padded = [b' '; 11];
    padded[..label.len()].copy_from_slice(label.as_bytes());
    let disk = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out);
    let mut disk = disk.with_context(|| format!("creating `{}`", out.display()))?;
    disk.set_len(size)
        .with_context(|| format!("creating `{}`", out.display()))?;
    let options = FormatVolumeOptions::new()
        .bytes_per_sector(u16::try_from(sector).context("the disk's sectors are too large")?)
        .total_sectors(u32::try_from(size / sector).context("the volume is too large")?)
        .volume_label(padded);
    fatfs::format_volume(&mut disk, options)
        .with_context(|| format!("formatting the volume `{label}`"))?;
    let volume = FileSystem::new(&mut disk, FsOptions::new())
        .with_context(|| format!("opening the volume `{label}`"))?;
    for (path, bytes) in files {
        let doing = || format!("writing `{path}` into the volume `{label}`");
        let mut folder = volume.root_dir();
        let mut names: Vec<&str> = path.split('/').collect();
        let name = names.pop().unwrap_or(path);
        for name in names {
            folder = folder.create_dir(name).with_context(doing)?;
        }
        let mut file = folder.create_file(name).with_context(doing)?;
        file.write_all(bytes)
            .and_then(|()| file.flush())
            .with_context(doing)?;
    }
    volume
        .unmount()
        .with_context(|| format!("closing the volume `{label}`"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn plan() -> Plan {
        Plan {
            root_device: PathBuf::from("/dev/dm-0"),
            root: 400 * MIB,
            tree: 4 * MIB,
            root_hash: "0123456789abcdef0123456789abcdef".repeat(2),
        }
    }

    #[test]
    fn partitions_have_the_ids_by_which_the_initrd_finds_them() {
        let parts = plan().parts(Path::new("/w/esp"), Path::new("/w/seed"));
        let root = parts[1].definition();
        assert_eq!(
            root,
            "[Partition]\nType=root-x86-64\nLabel=firstlight-root-a\nSizeMinBytes=738197504\n\
             SizeMaxBytes=738197504\nUUID=01234567-89ab-cdef-0123-456789abcdef\nReadOnly=yes\n\
             CopyBlocks=/dev/dm-0\n"
        );
        assert!(
            !parts[3].definition().contains("CopyBlocks"),
            "{:?}",
            parts[3]
        );
        let sizes: u64 = parts.iter().map(|part| part.size).sum();
        assert!(plan().smallest_disk() >= sizes + STATE + 2 * MIB);
    }

    #[test]
    fn volumes_are_fat_for_both_kinds_of_sectors() {
        for sector in [512, 4096] {
            for (size, kind) in [
                (ESP_SIZE, fatfs::FatType::Fat32),
                (SEED_SIZE, fatfs::FatType::Fat16),
            ] {
                let files: [(&str, &[u8]); 1] = [("EFI/BOOT/BOOTX64.EFI", b"kernel")];
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("esp");
                volume(&path, size, sector, "ESP", &files).unwrap();
                let file = File::open(&path).unwrap();
                assert!(file.metadata().unwrap().blocks() * 512 < size / 8);
                let writable = File::options().read(true).write(true).open(&path);
                let volume = FileSystem::new(writable.unwrap(), FsOptions::new()).unwrap();
                assert_eq!(volume.fat_type(), kind, "{size} {sector}");
                let mut text = String::new();
                let file = volume.root_dir().open_file(files[0].0);
                file.unwrap().read_to_string(&mut text).unwrap();
                assert_eq!(text, "kernel");
            }
        }
    }
}
