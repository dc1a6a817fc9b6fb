//! The node image boots from any disk: of its own size and larger, with sectors of 512 and of 4,096
//! bytes, for each host of a lab; and a machine that cannot boot it says why on its console.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firstboot::journal::{DOCUMENT_AWAITED, DOCUMENT_FOUND, FAILED, STEP_DONE, field};
use gpt::partition_types::LINUX_FS;
use imagegen::image::disk::{Parts, write};
use userdata::contract::{ROOT_PARTITION, STATE_PARTITION};
use vm_tests::cluster::{Cluster, never_ready};
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::process;
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::disk;
use vm_tests::machine::journal::RecordMatch;
use vm_tests::machine::qemu::{Boot, DiskFile, DiskFormat, Drive, Machine};
use vm_tests::machine::vm::Vm;

const DEADLINE: Duration = Duration::from_secs(150);

#[test]
fn bios_says_that_the_disk_boots_by_uefi() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run_dir = RunDir::new("bios")?;
    let part = run_dir.folder().join("part");
    fs::write(&part, [0x5a; 4096])?;
    let path = run_dir.folder().join("node.raw");
    let parts = Parts {
        uki: &part,
        root: &part,
        verity: &part,
        root_hash: &"5a".repeat(32),
        seed: &[],
    };
    write(&parts, &path)?;
    let machine = Machine {
        disks: vec![raw(&path, Drive::Ahci)],
        memory_mib: 128,
        reports: false,
        ..Machine::new("bios", Boot::Bios)
    };
    let vm = Vm::start(&host, &run_dir, &machine)?;
    vm.wait_for_console("This disk boots by UEFI only", Duration::from_secs(20))?;
    vm.wait_for_console("OVMF for a virtual machine", Duration::from_secs(20))?;
    drop(vm);
    run_dir.passed();
    Ok(())
}

/// All hosts boot copies of one image, which has all documents, on disks as large as the image.
#[test]
#[ignore = "8 minutes without KVM; run: cargo test -p vm-tests --test disk_boots -- --include-ignored"]
fn hosts_of_one_image_are_told_apart_and_grow_into_their_disks() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let programs = Programs::build()?;
    let output = Output::make(&programs, &topology("lab"))?;
    let qcow2 = output.add_qcow2(&programs)?;
    let run_dir = RunDir::new("disk_boots")?;
    let mut cluster = lab(&host, &run_dir, &output)?;

    // By the MAC address alone; the disk is as large as the image.
    let vm = started(&cluster, "m0", &host, &run_dir)?;
    let first = state_size(&vm)?;
    assert!((1_800..2_100).contains(&first), "{first} MiB");
    vm.shell("sync")?;
    drop(vm);
    // A larger disk: state grows at the next boot, with its file system.
    let path = cluster.member("m0")?.disk().path.clone();
    let mut resize = host.tools().command("bin/qemu-img", None);
    process::run(resize.args(["resize", "-q"]).arg(&path).arg("+2G"))?;
    let vm = started(&cluster, "m0", &host, &run_dir)?;
    let grown = state_size(&vm)?;
    assert!(grown > first + 1_900, "{first} MiB, then {grown} MiB");
    drop(vm);

    // By serial number, and by UUID, the latter from a copy of the qcow2 file.
    drop(started(&cluster, "n0", &host, &run_dir)?);
    let copy = run_dir.folder().join("n1-copy.qcow2");
    fs::copy(&qcow2, &copy).with_context(|| format!("copying `{}`", qcow2.display()))?;
    cluster.member_mut("n1")?.machine.disks[0] = DiskFile {
        format: DiskFormat::Qcow2,
        ..raw(&copy, Drive::Virtio)
    };
    drop(started(&cluster, "n1", &host, &run_dir)?);

    // The MAC address of n0 and another serial number: no document matches, and the screen shows what
    // this machine is.
    let late = cluster.member("m0")?.port.nic("52:54:00:00:07:10");
    let member = cluster.member_mut("n0")?;
    member.machine.serial = Some("SN-99".to_owned());
    member.machine.disks[0] = as_it_comes(&host, &run_dir, "stranger", &output)?;
    let vm = member.start(&host, &run_dir)?;
    vm.wait_for(
        &RecordMatch::id(DOCUMENT_AWAITED),
        &[RecordMatch::id(DOCUMENT_FOUND), RecordMatch::id(FAILED)],
        DEADLINE,
    )?;
    for text in [
        "== no document for this machine ==",
        "52:54:00:00:07:20",
        "serial     SN-99",
        "none of its 3 hosts matches this machine",
        "attach a disk labelled `cidata`",
    ] {
        vm.wait_for_console(text, Duration::from_secs(10))?;
    }
    // The network card of m0 appears: this machine is m0.
    vm.plug_nic(&late)?;
    let found = vm.wait_for(&RecordMatch::id(DOCUMENT_FOUND), &never_ready(), DEADLINE)?;
    ensure!(found.get(field::HOST) == Some("m0"), "{found:?}");
    let addresses = RecordMatch::id(STEP_DONE).field(field::STEP, "addresses");
    vm.wait_for(&addresses, &never_ready(), DEADLINE)?;
    let seen = vm.shell("ip -4 -brief address; firstboot status")?;
    ensure!(
        seen.contains("192.168.7.10/24") && !seen.contains("192.168.7.20/24"),
        "{seen}"
    );
    drop(vm);
    run_dir.passed();
    Ok(())
}

#[test]
#[ignore = "4 minutes without KVM; run: cargo test -p vm-tests --test disk_boots -- --include-ignored"]
fn flashed_disk_with_large_sectors_boots() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let programs = Programs::build()?;
    let output = Output::make(&programs, &topology("lab"))?;
    let run_dir = RunDir::new("large_sectors")?;
    let mut cluster = lab(&host, &run_dir, &output)?;
    let path = run_dir.folder().join("n0.raw");
    let mut flash = Command::new(&programs.imagegen);
    flash.arg("flash").arg("--output").arg(output.folder());
    flash.args(["--host", "n0", "--size", "6G", "--sector-size", "4096"]);
    process::run(flash.arg(&path))?;
    for drive in [Drive::Nvme4k, Drive::Virtio4k] {
        let member = cluster.member_mut("n0")?;
        member.machine.disks[0] = raw(&path, drive);
        let vm = started(&cluster, "n0", &host, &run_dir)?;
        let sector = vm.shell("lsblk -dnro LOG-SEC $(findmnt -no SOURCE /var)")?;
        assert_eq!(sector.trim(), "4096", "{drive:?}");
        assert!(state_size(&vm)? > 2_500);
        vm.shell("sync")?;
    }
    run_dir.passed();
    Ok(())
}

#[test]
#[ignore = "5 minutes without KVM; run: cargo test -p vm-tests --test disk_boots -- --include-ignored"]
fn machine_that_cannot_boot_says_why() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("lab"))?;
    let run_dir = RunDir::new("cannot_boot")?;
    let mut cluster = lab(&host, &run_dir, &output)?;
    let path = disk::private_copy(&run_dir, "full", &output.image())?;
    let member = cluster.member_mut("n0")?;
    member.machine.disks[0] = raw(&path, Drive::Virtio);

    // Another partition has the room of the state.
    let mut table = gpt::GptConfig::new().writable(true).open(&path)?;
    table.add_partition("data", 1 << 30, LINUX_FS, 0, None)?;
    table.write()?;
    let vm = member.start(&host, &run_dir)?;
    // The screen breaks lines between words.
    for text in [
        "== this machine has no state partition ==",
        "52:54:00:00:07:20",
        "serial     SN-20",
        "too little for",
        "larger than the image by at least 2 GiB",
    ] {
        vm.wait_for_console(text, DEADLINE)?;
    }
    drop(vm);

    // The root is on no disk.
    let mut table = gpt::GptConfig::new().writable(true).open(&path)?;
    let mut partitions: BTreeMap<_, _> = table.partitions().clone();
    let root = partitions
        .values_mut()
        .find(|one| one.name == ROOT_PARTITION);
    root.context("the image has a root")?.part_guid = Default::default();
    table.update_partitions(partitions)?;
    table.write()?;
    let vm = member.start(&host, &run_dir)?;
    for text in [
        "== this machine does not find its node image ==",
        "serial     SN-20",
        "no disk has the partition of the root",
        "attach the disk with the node image",
    ] {
        vm.wait_for_console(text, DEADLINE)?;
    }
    drop(vm);
    run_dir.passed();
    Ok(())
}

/// The machines of the lab with disks that are as large as the image, and without seed disks.
fn lab(host: &Host, run_dir: &RunDir, output: &Output) -> Result<Cluster> {
    let mut cluster = Cluster::new(host, run_dir, output)?;
    let scale = host.time_scale(1);
    for member in &mut cluster.members {
        let name = format!("{}-as-it-comes", member.name);
        member.machine.disks = vec![as_it_comes(host, run_dir, &name, output)?];
        member.machine.time_scale = scale;
    }
    cluster.member_mut("n0")?.machine.serial = Some("SN-20".to_owned());
    let uuid = "7c3f2f0e-31d4-4b7a-9d3c-0d6a4b1e5a21";
    cluster.member_mut("n1")?.machine.uuid = Some(uuid.to_owned());
    Ok(cluster)
}

fn as_it_comes(host: &Host, run_dir: &RunDir, name: &str, output: &Output) -> Result<DiskFile> {
    disk::overlay(host, run_dir, name, &output.image(), DiskFormat::Raw)
}

fn raw(path: &Path, drive: Drive) -> DiskFile {
    DiskFile {
        path: path.to_path_buf(),
        format: DiskFormat::Raw,
        read_only: false,
        serial: "node".to_owned(),
        drive,
    }
}

/// Starts a machine and waits until firstboot has found its document.
fn started(cluster: &Cluster, name: &str, host: &Host, run_dir: &RunDir) -> Result<Vm> {
    let vm = cluster.member(name)?.start(host, run_dir)?;
    let found = vm.wait_for(&RecordMatch::id(DOCUMENT_FOUND), &never_ready(), DEADLINE)?;
    ensure!(found.get(field::HOST) == Some(name), "{found:?}");
    let label = vm.shell("lsblk -no PARTLABEL $(findmnt -no SOURCE /var)")?;
    ensure!(label.trim() == STATE_PARTITION, "/var is on `{label}`");
    Ok(vm)
}

/// The size of /var's file system in MiB.
fn state_size(vm: &Vm) -> Result<u64> {
    vm.shell("systemctl start systemd-growfs@var.service")?;
    let text = vm.shell("df --block-size=1M --output=size /var | tail -1")?;
    text.trim()
        .parse()
        .with_context(|| format!("df said `{text}`"))
}
