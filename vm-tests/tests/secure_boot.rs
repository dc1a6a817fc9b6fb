//! Firmware with Secure Boot boots a kernel image that the enrolled key signed, and no other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use build_tools::cache::Cache;
use build_tools::process;
use build_tools::progress::Progress;
use imagegen::image::{self, Signing, uki, vfat};
use imagegen::plan::Kernel;
use vm_tests::host::Host;
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::qemu::{Boot, DiskFile, DiskFormat, Drive, Machine};
use vm_tests::machine::vm::Vm;

/// Printed by the kernel (drivers/firmware/efi/secureboot.c), before it looks for an init.
const BOOTED: &str = "Secure boot enabled";

/// Printed by the firmware (edk2 MdeModulePkg/Universal/BdsDxe).
const REFUSED: &str = "Access Denied";

#[test]
fn only_the_enrolled_key_boots() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run_dir = RunDir::new("secure_boot")?;
    let [key, certificate] = host.tools().secure_boot_key();
    let plain = run_dir.folder().join("test.key");
    let mut openssl = Command::new("openssl");
    openssl.args(["pkey", "-passin", "pass:snakeoil", "-in"]);
    process::run(openssl.arg(&key).arg("-out").arg(&plain))?;
    let refusal = Signing::open(&key, &certificate).expect_err("the key has a passphrase");
    assert!(format!("{refusal:#}").contains("passphrase"), "{refusal:#}");

    let signed = kernel_image(
        &run_dir,
        "signed",
        Some(&Signing::open(&plain, &certificate)?),
    )?;
    boots(&host, &run_dir, "signed", &signed, BOOTED)?;

    // One byte of the kernel's command line, which is in the signed part.
    let changed = replaced(
        &signed,
        b"console=ttyS0 marker=1",
        b"console=ttyS0 marker=2",
    )?;
    boots(&host, &run_dir, "changed", &changed, REFUSED)?;
    let unsigned = kernel_image(&run_dir, "unsigned", None)?;
    boots(&host, &run_dir, "unsigned", &unsigned, REFUSED)?;
    run_dir.passed();
    Ok(())
}

/// A kernel image as imagegen makes it, with an empty initrd.
fn kernel_image(run_dir: &RunDir, name: &str, signing: Option<&Signing>) -> Result<Vec<u8>> {
    let progress = Progress::stderr();
    let tools = image::tools(&Cache::open()?, Kernel::Cloud, &progress)?;
    let modules = tools.path().join("usr/lib/modules");
    let release = fs::read_dir(&modules)?.next().context("no kernel")??;
    let release = release.file_name().to_string_lossy().into_owned();
    let work = run_dir.folder().join(name);
    fs::create_dir(&work)?;
    let initrd = work.join("initrd");
    fs::write(&initrd, empty_archive())?;
    let contents = uki::Contents {
        release: &release,
        initrd: &initrd,
        cmdline: "console=ttyS0 marker=1",
        os_release: b"NAME=Firstlight\n",
    };
    let keys = uki::Keys {
        secure_boot: signing,
        policy: None,
    };
    let uki = uki::build(&tools, &contents, keys, &work)?;
    Ok(fs::read(uki)?)
}

/// The end of an archive of cpio's format `newc`: 13 fields, of which the 12th is the length of the
/// name.
fn empty_archive() -> Vec<u8> {
    let fields = "00000000".repeat(11);
    let mut bytes = format!("070701{fields}0000000b00000000TRAILER!!!\0").into_bytes();
    bytes.resize(512, 0);
    bytes
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let at = bytes.windows(from.len()).position(|part| part == from);
    let at = at.context("the text is not in the image")?;
    bytes[at..at + to.len()].copy_from_slice(to);
    Ok(bytes)
}

/// Boots from a disk with only this program, and waits for `expected` on the console.
fn boots(host: &Host, run_dir: &RunDir, name: &str, uki: &[u8], expected: &str) -> Result<()> {
    let path = disk(run_dir.folder(), name, uki)?;
    let machine = Machine {
        cpus: 1,
        memory_mib: 1024,
        disks: vec![DiskFile {
            path,
            format: DiskFormat::Raw,
            read_only: true,
            serial: name.to_owned(),
            drive: Drive::default(),
        }],
        reports: false,
        ..Machine::new(name, Boot::SecureUefi)
    };
    let vm = Vm::start(host, run_dir, &machine)?;
    vm.wait_for_console(expected, Duration::from_secs(60))
        .map(drop)
}

/// A FAT disk with the program where firmware looks for it.
fn disk(folder: &Path, name: &str, uki: &[u8]) -> Result<PathBuf> {
    let path = folder.join(format!("{name}.img"));
    let size = (uki.len() as u64 + (16 << 20)).next_multiple_of(1 << 20);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    file.set_len(size)?;
    vfat::write(&mut file, size, "ESP", 1, &[("EFI/BOOT/BOOTX64.EFI", uki)])?;
    Ok(path)
}
