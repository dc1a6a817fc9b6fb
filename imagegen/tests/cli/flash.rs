//! `imagegen flash` with a small image, to files and to loop devices.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::partition_types::BASIC;
use imagegen::digest::digest_file;

use crate::work::{Work, skip, stderr};

const MIB: u64 = 1 << 20;

/// The documents of all hosts, and an image of 13 MiB.
fn work() -> Work {
    let work = Work::new();
    work.userdata();
    let path = work.path("prod/node.raw");
    let mut image = File::create_new(&path).unwrap();
    image.set_len(13 * MIB).unwrap();
    let mut disk = GptConfig::new()
        .writable(true)
        .create_from_device(&mut image, None)
        .unwrap();
    for (name, size) in [
        ("firstlight-esp", 2),
        ("firstlight-root-a", 6),
        ("firstlight-verity-a", 1),
        ("firstlight-seed", 2),
    ] {
        disk.add_partition(name, size * MIB, BASIC.clone(), 0, Some(2048))
            .unwrap();
    }
    disk.write().unwrap();
    let mut esp = std::io::Cursor::new(vec![0; MIB as usize]);
    let files: [(&str, &[u8]); 1] = [("EFI/BOOT/BOOTX64.EFI", b"kernel")];
    imagegen::image::vfat::write(&mut esp, MIB, "ESP", 7, &files).unwrap();
    image.write_all_at(&esp.into_inner(), MIB).unwrap();
    image.write_all_at(&[0x5a; 5000], 3 * MIB).unwrap();
    let manifest = work.path("prod/manifest.json");
    let text = fs::read(&manifest).unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    value["outputs"]["node.raw"] = digest_file(&path).unwrap().into();
    fs::write(manifest, serde_json::to_vec(&value).unwrap()).unwrap();
    work
}

fn flash<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["flash", "-o", "prod"], args].concat()
}

/// What `used_file` filled, and more than an image writes at the start of a disk.
fn start(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 16 << 20];
    let file = File::open(path).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// A file with old contents.
fn used_file(work: &Work, name: &str, size: u64) -> PathBuf {
    let path = work.path(name);
    let file = File::create(&path).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(&[0xaa; 16 << 20], 0).unwrap();
    path
}

#[test]
fn flash_makes_a_file_and_tells_what_is_next() {
    let work = work();
    let args = flash(&["--host", "m1", "--size", "3G", "m1.raw"]);
    let output = work.run(&args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        text.contains("has the node image and the seed of the host `m1`"),
        "{text}"
    );
    assert!(text.contains("file=m1.raw,format=raw"), "{text}");
    assert!(text.contains("mac=52:54:00:00:07:11"), "{text}");
    check(&work, &work.path("m1.raw"), 512, 3 << 30);
    let large = ["--host", "m1", "--size", "3G", "--sector-size", "4096"];
    let output = work.run(&flash(&[&large[..], &["large.raw"]].concat()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(text.contains("logical_block_size=4096"), "{text}");
    check(&work, &work.path("large.raw"), 4096, 3 << 30);

    // A question without a terminal to answer it; then its answer.
    let args = flash(&["--host", "m1", "m1.raw"]);
    let before = start(&work.path("m1.raw"));
    let output = work.run(&args);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("give --yes to erase `m1.raw`"),
        "{}",
        stderr(&output)
    );
    assert!(start(&work.path("m1.raw")) == before, "`m1.raw` changed");
    let output = work.run(&[&args[..], &["--yes"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("a file, which is overwritten"),
        "{}",
        stderr(&output)
    );
}

/// The table, the root and the seed of `m1`.
fn check(work: &Work, path: &Path, sector: u64, size: u64) {
    let block = match sector {
        512 => LogicalBlockSize::Lb512,
        _ => LogicalBlockSize::Lb4096,
    };
    let table = GptConfig::new()
        .logical_block_size(block)
        .only_valid_headers(true)
        .open(path)
        .unwrap();
    assert_eq!(
        table.primary_header().unwrap().backup_lba,
        size / sector - 1
    );
    let disk = File::open(path).unwrap();
    let mut bytes = vec![0; 14 << 20];
    disk.read_exact_at(&mut bytes, 0).unwrap();
    let root = &bytes[3 << 20..10 << 20];
    assert!(root[..5000].iter().all(|b| *b == 0x5a), "the root's data");
    assert!(root[5000..].iter().all(|b| *b == 0), "the root's holes");
    let seed = &bytes[10 << 20..12 << 20];
    if sector == 512 {
        let expected = fs::read(work.path("prod/hosts/m1/seed.img")).unwrap();
        assert!(seed[..expected.len()] == expected, "the seed");
    } else {
        assert_eq!(
            seed[11..13],
            [0, 16],
            "a volume with sectors of 4,096 bytes"
        );
    }
    assert!(
        bytes[12 << 20..13 << 20].iter().all(|b| *b == 0),
        "the start of the state"
    );
}

#[test]
fn flash_refuses_with_one_sentence_and_writes_nothing() {
    let work = work();
    used_file(&work, "small", 64 * MIB);
    used_file(&work, "large", 4 << 30);
    fs::create_dir(work.path("folder")).unwrap();
    let cases: [(&[&str], &str); 14] = [
        (
            &["--host", "m9", "x"],
            "no seed of the host `m9`; its hosts are `m0`, `m1`",
        ),
        (
            &["--host", "m1", "x"],
            "`x` does not exist; create it with --size",
        ),
        (
            &["--host", "m1", "--size", "1G", "x"],
            "the image needs at least 2.0 GiB",
        ),
        (
            &["--host", "m1", "--size", "3G", "no/x"],
            "the folder `no` does not exist",
        ),
        (
            &["--host", "m1", "small"],
            "`small` has 64 MiB, and the image needs",
        ),
        (
            &["--host", "m1", "--size", "3G", "large"],
            "`large` has 4.0 GiB (4.3 GB), more",
        ),
        (
            &["--host", "m1", "--size", "3G", "folder"],
            "neither a disk nor a file",
        ),
        (&["--host", "m1", "/dev/null"], "neither a disk nor a file"),
        (
            &["--host", "m1", "/dev/no-disk"],
            "`/dev/no-disk` does not exist; ",
        ),
        (
            &["--host", "m1", "--size", "3G", "prod/node.raw"],
            "is a result of imagegen",
        ),
        (
            &["--host", "m1", "--size", "3G", "prod/admin.conf"],
            "is a result of imagegen",
        ),
        (
            &["--host", "m1", "-o", "folder", "x"],
            "not an output folder of imagegen",
        ),
        (
            &["--host", "m1", "--size", "3", "x"],
            "the image needs at least",
        ),
        (
            &["--host", "m1", "large"],
            "standard input is not a terminal",
        ),
    ];
    let before = work.state("prod");
    let names = work.names();
    let large = start(&work.path("large"));
    for (args, message) in cases {
        let args = match args.contains(&"-o") {
            true => [&["flash"], args].concat(),
            false => flash(args),
        };
        let output = work.run(&args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        assert!(text.contains(message), "{args:?}: {text}");
        let errors = text.lines().filter(|line| line.starts_with("imagegen: "));
        assert_eq!(errors.count(), 1, "{args:?}: {text}");
        assert_eq!(work.names(), names, "{args:?}");
    }
    assert!(work.state("prod") == before, "a result changed");
    assert!(start(&work.path("large")) == large, "`large` changed");
    for args in [
        &["flash", "--host", "m1", "x"][..],
        &["flash", "-o", "prod", "x"],
        &["flash", "-o", "prod", "--host", "m1"],
        &["flash", "-o", "prod", "--host", "m1", "--size", "1.5G", "x"],
    ] {
        assert_eq!(work.run(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn damaged_results_are_not_flashed() {
    let work = work();
    used_file(&work, "disk", 3 << 30);
    let before = start(&work.path("disk"));
    let refused = |message: &str| {
        let output = work.run(&flash(&["--host", "m1", "--yes", "disk"]));
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
        assert!(start(&work.path("disk")) == before, "`disk` changed");
    };
    let image = File::options()
        .write(true)
        .open(work.path("prod/node.raw"))
        .unwrap();
    image.write_all_at(b"x", 5 * MIB).unwrap();
    refused("`prod/node.raw` is damaged");
    let seed = work.path("prod/hosts/m1/seed.img");
    fs::copy(work.path("prod/hosts/m2/seed.img"), &seed).unwrap();
    refused("is not the file that imagegen wrote");
    fs::remove_file(work.path("prod/node.raw")).unwrap();
    work.userdata();
    refused("no node image; make it with `imagegen image -t TOPOLOGY -o prod`");
}

#[test]
fn help_of_flash_fits_eighty_columns() {
    let help = String::from_utf8(Work::new().run(&["flash", "--help"]).stdout).unwrap();
    for line in help.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

/// A block device on a file, which ends with the test.
struct Loop(String);

impl Loop {
    /// None without root or loop devices.
    fn new(file: &Path, sector: u64) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &sector.to_string()])
            .arg(file)
            .output()
            .ok()?;
        let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(Self(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(Command::new("losetup").args(["--detach", &self.0]).status());
    }
}

#[test]
fn flash_writes_block_devices_of_both_sectors() {
    let work = work();
    for sector in [512, 4096] {
        let size = 3 << 30;
        let file = used_file(&work, &format!("disk-{sector}"), size);
        let Some(device) = Loop::new(&file, sector) else {
            return skip("no loop device");
        };
        let name = format!("disk-{sector}");
        let output = work.run(&flash(&["--host", "m1", "--yes", &name]));
        assert!(
            stderr(&output).contains("is attached as"),
            "{}",
            stderr(&output)
        );
        let args = flash(&["--host", "m1", "--yes", &device.0]);
        // mount and device-mapper open a disk like this.
        let holder = File::options()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_EXCL.bits())
            .open(&device.0)
            .unwrap();
        let output = work.run(&args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains(&format!("`{}` is in use", device.0)),
            "{text}"
        );
        drop(holder);
        let output = work.run(&[&args[..], &["--size", "3G"]].concat());
        assert!(
            stderr(&output).contains("--size is for files"),
            "{}",
            stderr(&output)
        );

        let output = work.run(&args);
        let text = stderr(&output);
        assert!(output.status.success(), "{text}");
        assert!(
            text.contains(&format!("sectors of {sector} bytes")),
            "{text}"
        );
        let next = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(next.contains("the MAC address 52:54:00:00:07:11"), "{next}");
        // Success means that it is in the file below, not only in the device's memory.
        drop(device);
        check(&work, &file, sector, size);
    }
}
