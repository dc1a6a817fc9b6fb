//! Disks in a folder that looks like `/`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::super::System;

struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    /// An unused disk `sda` with three partitions.
    fn new() -> Self {
        let fake = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fake.write("proc/self/mountinfo", "");
        fake.disk("sda", "8:0");
        for number in 1..=3 {
            fake.partition("sda", number, &format!("8:{number}"));
        }
        fake
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn device(&self, folder: &str, name: &str, number: &str) {
        for (class, link) in [("class", name), ("dev", number)] {
            let link = self.dir.path().join(format!("sys/{class}/block/{link}"));
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(Path::new("../..").join(folder), link).unwrap();
        }
        let dir = format!("sys/{folder}");
        self.write(&format!("{dir}/dev"), &format!("{number}\n"));
        self.write(&format!("{dir}/size"), "8388608\n");
        self.write(&format!("{dir}/ro"), "0\n");
        self.write(&format!("dev/{name}"), "");
        for folder in ["holders", "slaves"] {
            fs::create_dir_all(self.dir.path().join(format!("{dir}/{folder}"))).unwrap();
        }
    }

    fn disk(&self, name: &str, number: &str) {
        self.device(&format!("devices/block/{name}"), name, number);
    }

    fn partition(&self, disk: &str, index: u32, number: &str) {
        let name = format!("{disk}{index}");
        let folder = format!("devices/block/{disk}/{name}");
        self.device(&folder, &name, number);
        self.write(&format!("sys/{folder}/partition"), &format!("{index}\n"));
    }

    /// A device-mapper volume or an array on `below`.
    fn volume(&self, name: &str, number: &str, below: &str) {
        self.disk(name, number);
        self.write(&format!("sys/devices/block/{name}/slaves/{below}"), "");
        self.write(&format!("sys/class/block/{below}/holders/{name}"), "");
    }

    fn mount(&self, number: &str, point: &str, source: &str) {
        let line = format!("30 1 {number} / {point} rw,noatime shared:1 - ext4 {source} rw\n");
        let path = self.dir.path().join("proc/self/mountinfo");
        let before = fs::read_to_string(&path).unwrap();
        fs::write(path, before + &line).unwrap();
    }

    fn system(&self) -> System {
        System::at(self.dir.path())
    }

    fn refusal(&self, name: &str) -> String {
        self.system().check_unused(name).unwrap_err().to_string()
    }

    fn no_disk(&self, name: &str) -> String {
        self.system().disk(name).unwrap_err().to_string()
    }
}

#[test]
fn unused_disk_is_described() {
    let fake = Fake::new();
    fake.write("sys/devices/block/sda/queue/logical_block_size", "4096\n");
    fake.write("sys/devices/block/sda/removable", "1\n");
    fake.write("sys/devices/block/sda/device/model", "Ultra Fit   \n");
    fake.write("sys/devices/block/sda/device/vendor", "SanDisk \n");
    fake.write("sys/devices/block/sda/sda2/uevent", "PARTNAME=data\n");
    fake.write("run/udev/data/b8:0", "S:x\nE:ID_SERIAL_SHORT=4C53\n");
    fake.mount("0:5", "/proc", "proc");
    fake.system().check_unused("sda").unwrap();
    let disk = fake.system().disk("sda").unwrap();
    assert_eq!(disk.model.as_deref(), Some("SanDisk Ultra Fit"));
    assert_eq!(disk.serial.as_deref(), Some("4C53"));
    assert_eq!((disk.size, disk.sector), (4 << 30, 4096));
    assert!(disk.removable);
    let names: Vec<_> = disk.partitions.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["sda1", "sda2", "sda3"]);
    assert_eq!(disk.partitions[1].label.as_deref(), Some("data"));
    assert_eq!(fake.system().list(), [disk]);
}

#[test]
fn mounted_disks_are_refused() {
    let fake = Fake::new();
    fake.mount("8:2", r"/mnt/my\040stick", "/dev/sda2");
    let text = fake.refusal("sda");
    assert!(
        text.contains("`/dev/sda2` is mounted at `/mnt/my stick`"),
        "{text}"
    );
    fake.mount("8:1", "/boot/efi", "/dev/sda1");
    let text = fake.refusal("sda");
    assert!(
        text.contains("the disk of this system: `/boot/efi`"),
        "{text}"
    );
    assert!(fake.system().list().is_empty());

    let fake = Fake::new();
    fake.mount("8:0", "/data", "/dev/sda");
    assert!(fake.refusal("sda").contains("mounted at `/data`"));

    // The number of btrfs belongs to no device.
    let fake = Fake::new();
    fake.mount("0:40", "/", "/dev/sda3");
    assert!(fake.refusal("sda").contains("the disk of this system"));
}

#[test]
fn root_on_lvm_on_raid_is_found() {
    let fake = Fake::new();
    fake.volume("md0", "9:0", "sda3");
    fake.volume("dm-0", "253:0", "md0");
    fake.mount("253:0", "/", "/dev/mapper/vg-root");
    let text = fake.refusal("sda");
    assert!(
        text.contains("the disk of this system: `/` is on `/dev/dm-0`"),
        "{text}"
    );
}

#[test]
fn swap_and_members_of_volumes_are_refused() {
    let fake = Fake::new();
    fake.write(
        "proc/swaps",
        "Filename Type Size\n/dev/sda2 partition 1 0 -2\n",
    );
    let text = fake.refusal("sda");
    assert!(text.contains("`/dev/sda2` is swap space"), "{text}");

    // Swap in a logical volume, by udev's link.
    let fake = Fake::new();
    fake.volume("dm-1", "253:1", "sda3");
    fs::create_dir_all(fake.dir.path().join("dev/mapper")).unwrap();
    symlink("../dm-1", fake.dir.path().join("dev/mapper/vg-swap")).unwrap();
    fake.write(
        "proc/swaps",
        "Filename Type\n/dev/mapper/vg-swap partition\n",
    );
    let text = fake.refusal("sda");
    assert!(text.contains("`/dev/dm-1` is swap space"), "{text}");

    for below in ["sda", "sda1"] {
        let fake = Fake::new();
        fake.volume("dm-0", "253:0", below);
        fake.write("sys/devices/block/dm-0/dm/name", "vg-data\n");
        let text = fake.refusal("sda");
        let expected = format!("`/dev/{below}` is part of the volume or array dm-0 (`vg-data`)");
        assert!(text.contains(&expected), "{text}");
    }
}

#[test]
fn devices_that_are_no_usable_disks_are_refused() {
    let fake = Fake::new();
    assert!(
        fake.no_disk("sda1")
            .contains("give the whole disk, `/dev/sda`")
    );
    assert!(fake.no_disk("sdq").contains("the kernel knows no disk"));
    for (name, number) in [("dm-0", "253:0"), ("md127", "9:127"), ("sr0", "11:0")] {
        fake.disk(name, number);
        assert!(fake.system().disk(name).is_err(), "{name}");
    }
    fake.write("sys/devices/block/sda/ro", "1\n");
    assert!(fake.no_disk("sda").contains("`/dev/sda` is read-only"));
    fake.write("sys/devices/block/sda/size", "0\n");
    assert!(fake.no_disk("sda").contains("`/dev/sda` has no medium"));
}

#[test]
fn file_of_a_loop_device_is_refused() {
    let fake = Fake::new();
    fake.disk("loop3", "7:3");
    let file = fake.dir.path().join("vm.raw");
    fs::write(&file, "").unwrap();
    fake.system().check_not_attached(&file).unwrap();
    let path = fs::canonicalize(&file).unwrap();
    let text = format!("{}\n", path.display());
    fake.write("sys/devices/block/loop3/loop/backing_file", &text);
    let refused = fake.system().check_not_attached(&file).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("is attached as `/dev/loop3`"), "{text}");
}

/// Reads the sysfs of the machine that runs the test; writes nothing.
#[test]
fn root_disk_of_this_machine_is_refused() {
    use std::os::unix::fs::MetadataExt as _;
    let system = System::default();
    let device = fs::metadata("/").unwrap().dev();
    // A container's root is on no disk.
    if let Some(name) = system.name_of_device(device) {
        for below in system.below(&name) {
            let refused = system.check_unused(&below);
            assert!(refused.is_err(), "{below} holds the root");
        }
    }
}
