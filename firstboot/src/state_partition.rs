//! Which partition is /var: the one named `firstlight-state` on the disk of the verified root.
//!
//! Runs in the initrd, from the verified root, around systemd-repart, which creates the partition
//! on the first boot. A name alone is not enough: the disk of another node may be attached too, and
//! to boot with its state would make this machine that node.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use userdata::contract::STATE_PARTITION;

use crate::sealed;
use crate::system::disks;
use crate::system::files::Root;

/// Where the initrd mounts the verified root.
pub(crate) const SYSROOT: &str = "/sysroot";
/// `sysroot-var.mount` mounts this.
pub(crate) const LINK: &str = "/run/firstlight/state";

/// More than one attached disk carries the root that runs.
#[derive(Debug)]
pub struct SeveralDisks(Vec<String>);

impl std::fmt::Display for SeveralDisks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} disks carry this node image: {}; detach all but the one of this machine",
            self.0.len(),
            self.0.join(", ")
        )
    }
}

impl std::error::Error for SeveralDisks {}

/// Fails unless exactly one attached disk carries the root that runs.
pub fn check_boot_disk(root: &Root) -> Result<()> {
    disk(root).map(drop)
}

/// Makes `/run/firstlight/state` lead to the file system of the state partition, which it opens if
/// it is encrypted.
pub fn link(root: &Root) -> Result<()> {
    let partition = node(root, &disk(root)?)?;
    let device = sealed::open::open(root, &partition)?;
    let link = root.join(LINK);
    root.remove(LINK)?;
    if let Some(folder) = link.parent() {
        fs::create_dir_all(folder).with_context(|| format!("creating `{}`", folder.display()))?;
    }
    symlink(&device, &link).with_context(|| format!("creating `{}`", link.display()))
}

/// The disk of the root that runs.
pub(crate) fn disk(root: &Root) -> Result<String> {
    boot_disk(root, &disks::below(root, SYSROOT)?)
}

/// The device of the state partition on `disk`.
pub(crate) fn node(root: &Root, disk: &str) -> Result<PathBuf> {
    let device = state_partition(root, disk)?;
    Ok(Path::new("/dev").join(device.replace('!', "/")))
}

/// The disk of the partitions `below` the verified root.
///
/// They are found by ids that every copy of an image has. With two copies attached, which one runs
/// depends on the order in which disks appear, and at the next boot it may be the other.
fn boot_disk(root: &Root, below: &[String]) -> Result<String> {
    let mut carriers: Vec<_> = below
        .iter()
        .filter_map(|partition| disks::disk_of(root, partition))
        .collect();
    carriers.dedup();
    let Some(disk) = carriers.first().cloned() else {
        bail!("the verified root is on no partition of a disk");
    };
    let ids: Vec<_> = disks::partitions(root, &disk)?
        .into_iter()
        .filter(|partition| below.contains(&partition.device))
        .map(|partition| partition.id)
        .collect();
    for other in disks::disks(root)? {
        // Most disks of other purposes have no such table, and some cannot be read.
        let partitions = disks::partitions(root, &other).unwrap_or_default();
        if partitions.iter().any(|found| ids.contains(&found.id)) {
            carriers.push(other);
        }
    }
    carriers.sort();
    carriers.dedup();
    if carriers.len() > 1 {
        return Err(SeveralDisks(carriers).into());
    }
    Ok(disk)
}

fn state_partition(root: &Root, disk: &str) -> Result<String> {
    let mut found: Vec<_> = disks::partitions(root, disk)?
        .into_iter()
        .filter(|partition| partition.name == STATE_PARTITION)
        .map(|partition| partition.device)
        .collect();
    match found.len() {
        0 => bail!(
            "the disk {disk} has no partition named `{STATE_PARTITION}`, and systemd-repart created none"
        ),
        1 => Ok(found.remove(0)),
        count => bail!(
            "the disk {disk} has {count} partitions named `{STATE_PARTITION}`: {}; delete all but one",
            found.join(", ")
        ),
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "a test arranges files as it likes"
)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::File;

    use gpt::GptConfig;
    use gpt::disk::LogicalBlockSize;
    use gpt::partition::Partition;
    use gpt::partition_types::LINUX_FS;
    use tempfile::TempDir;
    use uuid::Uuid;

    use super::*;

    const ROOT: (&str, u128) = ("firstlight-root-a", 1);
    const VERITY: (&str, u128) = ("firstlight-verity-a", 2);

    /// Adds a disk with these partitions, as the kernel and the partition table show it.
    fn attach(dir: &Path, disk: &str, partitions: &[(&str, u128)]) {
        attach_with(dir, disk, partitions, LogicalBlockSize::Lb512);
    }

    fn attach_with(dir: &Path, disk: &str, partitions: &[(&str, u128)], sector: LogicalBlockSize) {
        let class = dir.join("sys/class/block");
        let device = dir.join("sys/devices/pci/block").join(disk);
        fs::create_dir_all(&class).unwrap();
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(dir.join("dev")).unwrap();
        fs::write(device.join("size"), "32768\n").unwrap();
        fs::create_dir(device.join("queue")).unwrap();
        let size = format!("{}\n", sector.as_u64());
        fs::write(device.join("queue/logical_block_size"), size).unwrap();
        symlink(&device, class.join(disk)).unwrap();
        let mut table = BTreeMap::new();
        for (number, (name, id)) in (1..).zip(partitions) {
            let partition = device.join(format!("{disk}{number}"));
            fs::create_dir_all(&partition).unwrap();
            fs::write(partition.join("partition"), format!("{number}\n")).unwrap();
            symlink(&partition, class.join(format!("{disk}{number}"))).unwrap();
            let start = u64::from(number) * 64;
            table.insert(
                number,
                Partition {
                    part_type_guid: LINUX_FS,
                    part_guid: Uuid::from_u128(*id),
                    first_lba: start,
                    last_lba: start + 63,
                    flags: 0,
                    name: (*name).to_owned(),
                },
            );
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dir.join("dev").join(disk))
            .unwrap();
        file.set_len(16 << 20).unwrap();
        let mut gpt = GptConfig::new()
            .writable(true)
            .logical_block_size(sector)
            .create_from_device(file, None)
            .unwrap();
        gpt.update_partitions(table).unwrap();
        gpt.write().unwrap();
    }

    /// The device of the state partition of a machine that runs from `vda1` and `vda2`, or why not.
    fn state(machine: &TempDir) -> String {
        let root = Root::new(machine.path());
        let below = ["vda1".to_owned(), "vda2".to_owned()];
        let found = boot_disk(&root, &below).and_then(|disk| state_partition(&root, &disk));
        found.unwrap_or_else(|error| format!("{error:#}"))
    }

    fn machine(partitions: &[(&str, u128)]) -> TempDir {
        let dir = TempDir::new().unwrap();
        attach(dir.path(), "vda", partitions);
        dir
    }

    #[test]
    fn state_is_on_the_disk_of_the_root() {
        let machine = machine(&[ROOT, VERITY, (STATE_PARTITION, 3)]);
        attach(machine.path(), "sda", &[(STATE_PARTITION, 4)]);
        attach(machine.path(), "vdb", &[("data", 5)]);
        assert_eq!(state(&machine), "vda3");
    }

    #[test]
    fn state_is_found_on_a_disk_with_sectors_of_4096_bytes() {
        let machine = TempDir::new().unwrap();
        let partitions = [ROOT, VERITY, (STATE_PARTITION, 3)];
        attach_with(machine.path(), "vda", &partitions, LogicalBlockSize::Lb4096);
        attach(machine.path(), "sda", &[(STATE_PARTITION, 4)]);
        assert_eq!(state(&machine), "vda3");
    }

    #[test]
    fn state_on_another_disk_only_is_refused() {
        let machine = machine(&[ROOT, VERITY]);
        attach(machine.path(), "vdb", &[(STATE_PARTITION, 3)]);
        assert_eq!(
            state(&machine),
            "the disk vda has no partition named `firstlight-state`, and systemd-repart created none"
        );
    }

    #[test]
    fn two_state_partitions_on_one_disk_are_refused() {
        let machine = machine(&[ROOT, VERITY, (STATE_PARTITION, 3), (STATE_PARTITION, 4)]);
        assert_eq!(
            state(&machine),
            "the disk vda has 2 partitions named `firstlight-state`: vda3, vda4; delete all but one"
        );
    }

    #[test]
    fn two_disks_with_the_same_image_are_refused() {
        let machine = machine(&[ROOT, VERITY, (STATE_PARTITION, 3)]);
        attach(machine.path(), "vdb", &[ROOT, VERITY]);
        assert_eq!(
            state(&machine),
            "2 disks carry this node image: vda, vdb; detach all but the one of this machine"
        );
    }

    #[test]
    fn disks_without_a_table_or_medium_do_not_matter() {
        let machine = machine(&[ROOT, VERITY, (STATE_PARTITION, 3)]);
        for (disk, size) in [("sda", "8\n"), ("sr0", "0\n"), ("loop0", "8\n")] {
            let device = machine.path().join("sys/class/block").join(disk);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("size"), size).unwrap();
        }
        fs::write(machine.path().join("dev/sda"), [0; 4096]).unwrap();
        assert_eq!(state(&machine), "vda3");
    }
}
