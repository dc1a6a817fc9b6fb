//! `imagegen iso` with a small `pxe/`: what the kernel, the firmware and a second reader see.

use std::fs::{self, File};
use std::io::{Cursor, Read as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use build_tools::cache::Cache;
use build_tools::progress::Progress;
use fatfs::{FileSystem, FsOptions};
use gpt::GptConfig;
use imagegen::image::live;

use crate::serve;
use crate::work::{Work, stderr};

fn iso(work: &Work, args: &[&str]) {
    let output = work.run(&[&["iso", "-o", "prod"], args].concat());
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn medium_boots_from_drives_and_sticks() {
    let work = serve::work();
    iso(&work, &["--host", "m1"]);
    let path = work.path("m1.iso");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A stick: the firmware finds the volume by the GPT.
    let file = File::open(&path).unwrap();
    let table = GptConfig::new().open_from_device(&file).unwrap();
    let esp = &table.partitions()[&2];
    let (start, end) = (esp.first_lba * 512, (esp.last_lba + 1) * 512);
    let mut volume = vec![0; (end - start) as usize];
    file.read_exact_at(&mut volume, start).unwrap();
    let volume = FileSystem::new(Cursor::new(volume), FsOptions::new()).unwrap();
    let mut program = Vec::new();
    let found = volume.root_dir().open_file("EFI/BOOT/BOOTX64.EFI");
    found.unwrap().read_to_end(&mut program).unwrap();
    let medium = work.path("prod/pxe").join(live::MEDIUM);
    assert!(program == fs::read(medium).unwrap());
    // A drive: by the boot catalogue, whose place is in the boot record (El Torito 1.0, 2.0).
    let mut sector = [0; 2048];
    file.read_exact_at(&mut sector, 17 * 2048).unwrap();
    assert!(sector[7..].starts_with(b"EL TORITO SPECIFICATION"));
    let number = |bytes: &[u8]| u64::from(u32::from_le_bytes(bytes.try_into().unwrap()));
    let catalogue = number(&sector[0x47..0x4b]);
    file.read_exact_at(&mut sector, catalogue * 2048).unwrap();
    assert_eq!((sector[0], sector[1]), (1, 0xef), "the platform is UEFI");
    assert_eq!(
        (sector[32], sector[33]),
        (0x88, 0),
        "bootable, no emulation"
    );
    assert_eq!(number(&sector[40..44]) * 2048, start);
    // The same files give the same bytes.
    iso(&work, &["--host", "m1", "again.iso"]);
    assert!(fs::read(&path).unwrap() == fs::read(work.path("again.iso")).unwrap());
}

#[test]
fn medium_has_root_and_documents() {
    let work = serve::work();
    iso(&work, &["--all-hosts"]);
    let out = work.path("extracted");
    let cache = Cache::open().unwrap();
    let tree = live::tree(&cache, &Progress::quiet()).unwrap();
    let mut xorriso = tree.program("xorriso").unwrap();
    xorriso.args(["-no_rc", "-osirrox", "on", "-indev"]);
    xorriso.arg(work.path("hosts.iso"));
    xorriso.args(["-extract", "/firstlight"]).arg(&out);
    let extracted = xorriso.output().unwrap();
    assert!(extracted.status.success(), "{}", stderr(&extracted));
    let same =
        |inside: &str, outside: &Path| fs::read(out.join(inside)).ok() == fs::read(outside).ok();
    let root = same(live::ROOT, &work.path("prod/pxe").join(live::ROOT));
    let document = same(
        "seed/hosts/m2/user-data",
        &work.path("prod/hosts/m2/user-data"),
    );
    assert!(root && document);
    let hash = fs::read_to_string(out.join("roothash"));
    assert_eq!(hash.unwrap(), "5a".repeat(32) + "\n");
}

#[test]
fn wrong_hosts_files_and_targets_are_refused() {
    let work = serve::work();
    let refused = |args: &[&str]| {
        let output = work.run(&[&["iso", "-o", "prod"], args].concat());
        assert!(!output.status.success(), "{args:?}");
        stderr(&output)
    };
    let text = refused(&["--host", "m9"]);
    assert!(
        text.contains("no host `m9`; its hosts are m0, m1, m2, n0"),
        "{text}"
    );
    let text = refused(&["--host", "m1", "prod/node.raw"]);
    assert!(text.contains("is a result of imagegen"), "{text}");
    let text = refused(&["--host", "m1", "/dev/null"]);
    assert!(text.contains("is not a file"), "{text}");
    fs::write(work.path("prod/hosts/m1/user-data"), "#cloud-config\n").unwrap();
    let text = refused(&["--host", "m1"]);
    assert!(
        text.contains("is not the file that imagegen wrote"),
        "{text}"
    );
    fs::write(work.path("prod/pxe/root.erofs"), "damaged").unwrap();
    let text = refused(&["--host", "m2"]);
    assert!(text.contains("its digest differs"), "{text}");
    assert!(!work.path("m1.iso").exists() && !work.path("m2.iso").exists());
}
