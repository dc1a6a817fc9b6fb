//! Images in files, with tables for both sizes of sectors.

use std::fs::{self, File};
use std::io::{Cursor, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use build_tools::progress::Progress;
use fatfs::{FileSystem, FsOptions};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::partition_types::BASIC;
use userdata::contract::{
    ESP_PARTITION, ROOT_PARTITION, SEED_LABEL, SEED_PARTITION, VERITY_PARTITION,
};

use super::super::*;
use crate::digest::digest_file;
use crate::image::vfat;
use crate::output::manifest::Manifest;

const PARTITIONS: &[(&str, u64)] = &[
    (ESP_PARTITION, 2 * MIB),
    (ROOT_PARTITION, 9 * MIB),
    (VERITY_PARTITION, MIB),
    ("_empty", 9 * MIB),
    (SEED_PARTITION, 2 * MIB),
];
const DATA: &[u8] = &[0x5a; 5000];

/// An output folder with a small image and the seed of `m1`.
struct Output {
    dir: tempfile::TempDir,
}

impl Output {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut image = File::create_new(dir.path().join("node.raw")).unwrap();
        image.set_len(25 * MIB).unwrap();
        let mut disk = GptConfig::new()
            .writable(true)
            .create_from_device(&mut image, None)
            .unwrap();
        for (name, size) in PARTITIONS {
            let kind = BASIC.clone();
            disk.add_partition(name, *size, kind, 0, Some(2048))
                .unwrap();
        }
        disk.write().unwrap();
        image
            .write_all_at(&fat("ESP", "EFI/BOOT/BOOTX64.EFI", b"kernel"), MIB)
            .unwrap();
        // Root: data, a hole of more than a chunk, data.
        image.write_all_at(DATA, 3 * MIB).unwrap();
        image.write_all_at(DATA, 11 * MIB).unwrap();
        let seed = fat(SEED_LABEL, "user-data", b"#cloud-config\n");
        fs::create_dir_all(dir.path().join("hosts/m1")).unwrap();
        fs::write(dir.path().join("hosts/m1/seed.img"), seed).unwrap();
        let output = Self { dir };
        let mut manifest = Manifest::default();
        for name in ["node.raw", "hosts/m1/seed.img"] {
            let digest = digest_file(&output.path(name)).unwrap();
            manifest.outputs.insert(name.to_owned(), digest);
        }
        fs::write(output.path("manifest.json"), manifest.to_bytes().unwrap()).unwrap();
        output
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn source(&self) -> Source {
        Source::open(self.dir.path(), "m1").unwrap()
    }

    /// A disk that is as small as allowed and has old data wherever something is written.
    fn used_disk(&self) -> PathBuf {
        let path = self.path("disk");
        let disk = File::create(&path).unwrap();
        let size = self.source().smallest_disk();
        disk.set_len(size).unwrap();
        let old = vec![0xaa; 30 << 20];
        disk.write_all_at(&old, 0).unwrap();
        disk.write_all_at(&old[..MIB as usize], size - MIB).unwrap();
        path
    }
}

fn fat(label: &str, name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut volume = Cursor::new(vec![0; MIB as usize]);
    vfat::write(&mut volume, MIB, label, 7, &[(name, bytes)]).unwrap();
    volume.into_inner()
}

fn flash(source: &Source, target: &mut Target) {
    write(source, target, &Progress::quiet()).unwrap();
}

/// Reads a file of a FAT volume, and its label and sector size.
fn read_fat(disk: &Path, at: u64, name: &str) -> (String, u16, Vec<u8>) {
    let mut volume = vec![0; 2 << 20];
    File::open(disk)
        .unwrap()
        .read_exact_at(&mut volume, at)
        .unwrap();
    let sector = u16::from_le_bytes([volume[11], volume[12]]);
    let volume = FileSystem::new(Cursor::new(volume), FsOptions::new()).unwrap();
    let mut bytes = Vec::new();
    let mut file = volume.root_dir().open_file(name).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    (volume.volume_label(), sector, bytes)
}

/// The table, of which both copies must be valid, and the contents of a written disk.
fn check(source: &Source, path: &Path, sector: u64) -> Vec<uuid::Uuid> {
    let block = match sector {
        512 => LogicalBlockSize::Lb512,
        _ => LogicalBlockSize::Lb4096,
    };
    let table = GptConfig::new()
        .logical_block_size(block)
        .only_valid_headers(true)
        .open(path)
        .unwrap();
    let size = fs::metadata(path).unwrap().len();
    assert_eq!(
        table.primary_header().unwrap().backup_lba,
        size / sector - 1
    );
    let found: Vec<_> = table
        .partitions()
        .values()
        .map(|entry| {
            let length = entry.bytes_len(block).unwrap();
            (
                entry.name.as_str(),
                length,
                entry.bytes_start(block).unwrap(),
            )
        })
        .collect();
    let mut at = MIB;
    for ((name, length), found) in PARTITIONS.iter().zip(&found) {
        assert_eq!((*name, *length, at), *found);
        at += length;
    }
    let (_, esp_sector, kernel) = read_fat(path, MIB, "EFI/BOOT/BOOTX64.EFI");
    assert_eq!(
        (u64::from(esp_sector), &kernel[..]),
        (sector, &b"kernel"[..])
    );
    let (label, seed_sector, user_data) = read_fat(path, 22 * MIB, "user-data");
    assert_eq!(user_data, b"#cloud-config\n");
    assert_eq!((u64::from(seed_sector), label.as_str()), (sector, "CIDATA"));
    // Between the volumes and behind them: the image's bytes, and zeros where it has holes.
    let mut expected = vec![0; 22 << 20];
    expected[3 << 20..][..DATA.len()].copy_from_slice(DATA);
    expected[11 << 20..][..DATA.len()].copy_from_slice(DATA);
    let mut bytes = vec![0; 25 << 20];
    File::open(path)
        .unwrap()
        .read_exact_at(&mut bytes, 0)
        .unwrap();
    assert!(
        bytes[3 << 20..22 << 20] == expected[3 << 20..],
        "the root differs"
    );
    assert!(
        bytes[24 << 20..].iter().all(|b| *b == 0),
        "state has old data"
    );
    // Nothing of the old disk in front of the second table.
    let mut end = vec![0; 512 << 10];
    let disk = File::open(path).unwrap();
    disk.read_exact_at(&mut end, size - MIB).unwrap();
    assert!(end.iter().all(|b| *b == 0), "the end has old data");
    let root = source
        .table
        .values()
        .find(|entry| entry.name == ROOT_PARTITION);
    assert_eq!(table.partitions()[&2].part_guid, root.unwrap().part_guid);
    let ids = table.partitions().values().map(|entry| entry.part_guid);
    std::iter::once(*table.guid()).chain(ids).collect()
}

#[test]
fn disk_has_image_seed_and_own_ids() {
    let output = Output::new();
    let source = output.source();
    let mut before = Vec::new();
    for (sector, zeroes) in [(512, true), (512, false), (4096, true), (4096, false)] {
        let path = output.used_disk();
        flash(
            &source,
            &mut Target::like_disk(&path, sector, zeroes).unwrap(),
        );
        let ids = check(&source, &path, sector);
        let same = ids.iter().filter(|id| before.contains(*id)).count();
        assert_eq!(
            same,
            if before.is_empty() { 0 } else { 2 },
            "root and hash tree"
        );
        before = ids;
    }
}

#[test]
fn file_is_created_private_and_sparse() {
    let output = Output::new();
    let (source, system) = (output.source(), System::default());
    let path = output.path("vm.raw");
    let size = source.smallest_disk() + 100;
    let mut target = Target::open(&path, Some(size), &source, &system).unwrap();
    assert!(
        !target.exists() && !path.exists(),
        "written before the question"
    );
    flash(&source, &mut target);
    drop(target);
    check(&source, &path, 512);
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert_eq!(meta.len(), size.next_multiple_of(4096));
    assert!(meta.blocks() * 512 < 20 * MIB, "{} blocks", meta.blocks());

    // The old contents go, wherever they are; the size stays.
    let disk = File::options().write(true).open(&path).unwrap();
    disk.write_all_at(&[0xaa; 4096], 6 * MIB).unwrap();
    flash(
        &source,
        &mut Target::open(&path, None, &source, &system).unwrap(),
    );
    check(&source, &path, 512);
    assert_eq!(fs::metadata(&path).unwrap().len(), meta.len());
}

#[test]
fn disk_that_loses_writes_is_found() {
    let output = Output::new();
    let source = output.source();
    let path = output.used_disk();
    let mut target = Target::like_disk(&path, 512, true).unwrap();
    flash(&source, &mut target);
    let disk = File::options().write(true).open(&path).unwrap();
    disk.write_all_at(b"x", 11 * MIB + 3).unwrap();
    let mut buffer = pieces::Buffer::zeros(MIB as usize);
    let mut expected = vec![0; MIB as usize];
    expected[..DATA.len()].copy_from_slice(DATA);
    let error = target
        .compare(11 * MIB, &expected, &mut buffer)
        .unwrap_err();
    let place = format!("byte {} differs", 11 * MIB + 3);
    assert!(error.to_string().contains(&place), "{error}");
}

#[test]
fn failed_write_leaves_no_table_and_says_so() {
    let output = Output::new();
    let source = output.source();
    let path = output.used_disk();
    let mut target = Target::like_disk(&path, 512, false).unwrap();
    // The image becomes shorter than its table says, as on a failing disk.
    let image = File::options()
        .write(true)
        .open(output.path("node.raw"))
        .unwrap();
    image.set_len(12 * MIB).unwrap();
    let error = write(&source, &mut target, &Progress::quiet()).unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("only partly written and does not boot"),
        "{text}"
    );
    assert!(text.contains("reading the image"), "{text}");
    assert!(
        GptConfig::new().open(&path).is_err(),
        "the disk has a table"
    );

    let new = output.path("new.raw");
    let size = Some(source.smallest_disk());
    let mut target = Target::open(&new, size, &source, &System::default()).unwrap();
    let error = write(&source, &mut target, &Progress::quiet()).unwrap_err();
    assert!(
        format!("{error:#}").contains("is removed again"),
        "{error:#}"
    );
    assert!(!new.exists());
    let error = source.check_image(&Progress::quiet()).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
}

#[test]
fn file_of_a_running_machine_is_refused() {
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;
    let output = Output::new();
    let path = output.used_disk();
    // As QEMU does.
    let vm = File::options().read(true).write(true).open(&path).unwrap();
    let lock = libc::flock {
        l_type: libc::F_RDLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 100,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&vm, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    let (source, system) = (output.source(), System::default());
    let error = Target::open(&path, None, &source, &system).unwrap_err();
    assert!(
        error.to_string().contains("a virtual machine uses"),
        "{error}"
    );
    drop(vm);
    let first = Target::open(&path, None, &source, &system).unwrap();
    let error = Target::open(&path, None, &source, &system).unwrap_err();
    assert!(
        error.to_string().contains("another program works with"),
        "{error}"
    );
    drop(first);
}

#[test]
fn sizes_are_read_with_units() {
    assert_eq!(parse_size("20G"), Ok(20 << 30));
    assert_eq!(parse_size("512MiB"), Ok(512 << 20));
    assert_eq!(parse_size("1T"), Ok(1 << 40));
    assert_eq!(parse_size("4096"), Ok(4096));
    for bad in ["", "G", "1.5G", "20g", "20 G", "-1G", "99999999T"] {
        assert!(parse_size(bad).is_err(), "{bad}");
    }
}

/// Linux and EDK2 take the type of FAT from the number of clusters; fatfs writes it as text, too.
#[test]
fn large_sectors_keep_the_type_of_fat_clear() {
    for size in [256 * MIB, 16 * MIB] {
        let volume =
            super::super::fat::rebuild(Cursor::new(fat("ESP", "a", b"kernel")), size, 4096)
                .unwrap();
        let word = |at: usize| u64::from(u16::from_le_bytes([volume[at], volume[at + 1]]));
        let total = match word(19) {
            0 => u64::from(u32::from_le_bytes(volume[32..36].try_into().unwrap())),
            small => small,
        };
        let root = (word(17) * 32).div_ceil(4096);
        let data = total - word(14) - u64::from(volume[16]) * word(22) - root;
        let clusters = data / u64::from(volume[13]);
        assert_eq!((word(11), total), (4096, size / 4096));
        assert!((4085..65525).contains(&clusters), "{size}: {clusters}");
        assert_eq!(&volume[54..62], b"FAT16   ");
    }
}
