//! The choice between disks and memory.

#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files as it likes"
)]

use gpt::GptConfig;
use gpt::partition_types::LINUX_FS;
use tempfile::TempDir;

use super::*;

const SIZE: u64 = 16 << 20;

/// Adds a disk of zeros, as the kernel shows it.
fn attach(dir: &Path, disk: &str) -> File {
    let class = dir.join("sys/class/block");
    let device = dir.join("sys/devices/pci/block").join(disk);
    fs::create_dir_all(&class).unwrap();
    fs::create_dir_all(device.join("queue")).unwrap();
    fs::create_dir_all(dir.join("dev")).unwrap();
    fs::write(device.join("size"), format!("{}\n", SIZE / 512)).unwrap();
    fs::write(device.join("ro"), "0\n").unwrap();
    fs::write(device.join("queue/logical_block_size"), "512\n").unwrap();
    symlink(&device, class.join(disk)).unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(dir.join("dev").join(disk))
        .unwrap();
    file.set_len(SIZE).unwrap();
    file
}

/// Makes a partition with this name on it.
fn partition(dir: &Path, disk: &str, file: &mut File, name: &str) {
    let device = dir
        .join("sys/devices/pci/block")
        .join(disk)
        .join(format!("{disk}1"));
    fs::create_dir_all(&device).unwrap();
    fs::write(device.join("partition"), "1\n").unwrap();
    let class = dir.join("sys/class/block").join(format!("{disk}1"));
    symlink(&device, class).unwrap();
    let mut table = GptConfig::new()
        .writable(true)
        .create_from_device(file, None)
        .unwrap();
    table
        .add_partition(name, 1 << 20, LINUX_FS, 0, None)
        .unwrap();
    table.write().unwrap();
}

fn chosen(dir: &TempDir, blank_allowed: bool) -> String {
    match choose(&Root::new(dir.path()), blank_allowed) {
        Ok(choice) => format!("{choice:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn disk_with_state_is_used_whatever_else_is_attached() {
    let dir = TempDir::new().unwrap();
    attach(dir.path(), "vda");
    let mut disk = attach(dir.path(), "vdb");
    partition(dir.path(), "vdb", &mut disk, STATE_PARTITION);
    assert_eq!(chosen(&dir, true), "Ours(\"vdb1\")");
    let mut disk = attach(dir.path(), "vdc");
    partition(dir.path(), "vdc", &mut disk, STATE_PARTITION);
    let error = chosen(&dir, true);
    assert!(error.starts_with("2 partitions named"), "{error}");
}

#[test]
fn blank_disk_is_used_only_if_allowed_and_alone() {
    let dir = TempDir::new().unwrap();
    let disk = attach(dir.path(), "vda");
    assert_eq!(chosen(&dir, true), "Blank(\"vda\")");
    let denied = chosen(&dir, false);
    assert!(denied.contains("image.diskless.blank_disks"), "{denied}");
    attach(dir.path(), "vdb");
    let several = chosen(&dir, true);
    assert!(several.contains("vda, vdb"), "{several}");
    // A signature at the end, as of an array.
    disk.write_at(&[1], SIZE - 4096).unwrap();
    assert_eq!(chosen(&dir, true), "Blank(\"vdb\")");
}

#[test]
fn disk_of_others_is_not_touched() {
    let dir = TempDir::new().unwrap();
    assert!(chosen(&dir, true).contains("no disk is attached"));
    let mut disk = attach(dir.path(), "vda");
    partition(dir.path(), "vda", &mut disk, "data");
    let reason = chosen(&dir, true);
    assert!(
        reason.starts_with("Memory(") && reason.contains("wipefs"),
        "{reason}"
    );
}
