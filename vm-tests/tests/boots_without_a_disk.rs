//! Machines that boot by real firmware from the network and from a medium, and what becomes of
//! their state.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use build_tools::progress::Progress;
use firstboot::journal::{DOCUMENT_FOUND, DOCUMENT_REFUSED, FAILED, STEP_STARTED, field};
use imagegen::image::live;
use imagegen::serve::{AUTOEXEC, dhcp};
use vm_tests::cluster::wait_ready;
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::process;
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::boot_origin::{NetworkBoot, Tap};
use vm_tests::machine::disk;
use vm_tests::machine::journal::RecordMatch;
use vm_tests::machine::qemu::{Boot, Machine};
use vm_tests::machine::vm::Vm;
use vm_tests::net::room::Room;
use vm_tests::net::serve::Serve;

/// Of `topologies/one.yaml`.
const MAC: &str = "52:54:00:00:07:10";
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
const DISK: u64 = 6 << 30;
/// A download, and a boot that is slower than from a disk.
const BOOT: Duration = Duration::from_secs(240);

/// A room without another DHCP server.
const FULL: &[&str] = &["--dhcp", "full"];

fn serve(
    programs: &Programs,
    output: &Output,
    room: &Room,
    run_dir: &RunDir,
    arguments: &[&str],
) -> Result<Serve> {
    let log = run_dir.folder().join("serve.log");
    Serve::start(&programs.imagegen, output.folder(), room, arguments, &log)
}

/// Waits for the document, and for the first step that it brings.
fn reaches_its_document(vm: &Vm) -> Result<String> {
    let never = [RecordMatch::id(FAILED), RecordMatch::id(DOCUMENT_REFUSED)];
    let found = vm.wait_for(&RecordMatch::id(DOCUMENT_FOUND), &never, BOOT)?;
    ensure!(found.get(field::HOST) == Some("m0"), "{found:?}");
    vm.wait_for(&RecordMatch::id(STEP_STARTED), &never, BOOT)?;
    Ok(found.get(field::SOURCE).unwrap_or_default().to_owned())
}

/// One of `machines` that run at the same time.
fn machine(host: &Host, name: &str, machines: usize) -> Machine {
    Machine {
        time_scale: host.time_scale(machines),
        cpus: host.cpus(machines),
        ..Machine::new(name, Boot::Uefi)
    }
}

#[test]
#[ignore = "20 minutes without KVM; run: cargo test -p vm-tests --test boots_without_a_disk -- --include-ignored"]
fn machine_boots_over_the_network_and_is_installed() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let programs = Programs::build()?;
    let output = Output::make(&programs, &topology("one"))?;
    output.add_pxe(&programs)?;
    let run_dir = RunDir::new("boots_without_a_disk")?;
    let room = Room::new(SERVER)?;
    let serve = serve(&programs, &output, &room, &run_dir, FULL)?;

    // A master without a disk would have etcd in memory. Its firmware boots by HTTP.
    let mut machine = machine(&host, "m0", 1);
    let mut tap = room.tap(MAC)?;
    machine.tap = Some(Tap {
        by_http: true,
        ..tap.clone()
    });
    let vm = Vm::start(&host, &run_dir, &machine)?;
    let refused = vm.wait_for(&RecordMatch::id(DOCUMENT_REFUSED), &[], BOOT)?;
    let reason = refused.get(field::REASON).unwrap_or_default();
    ensure!(
        reason.contains("etcd's data would be lost") && reason.contains("no disk is attached"),
        "{reason}"
    );
    let status = vm.shell("firstboot status; findmnt --noheadings --output FSTYPE,SOURCE /var")?;
    ensure!(
        status.contains("note: the root is from http://192.168.7.1:8069/")
            && status.contains("ext4"),
        "{status}"
    );
    drop(vm);
    let log = serve.log()?;
    ensure!(
        log.contains(" m0: snponly.efi fetched") && !log.contains(": sent /"),
        "{log}"
    );

    // With a blank disk, state is on it, at the second boot as well, and has the document.
    machine.tap = Some(tap.clone());
    machine.disks = vec![disk::empty(&run_dir, "blank", DISK)?];
    for (boot, from) in [("first", "boot-origin"), ("second", "kept")] {
        let vm = Vm::start(&host, &run_dir, &machine)?;
        let source = reaches_its_document(&vm)?;
        ensure!(source == from, "{boot}: {source}");
        let seen = vm.shell("findmnt --noheadings --output SOURCE /var; ls /var/lib/firstlight; ip -4 -brief address")?;
        ensure!(seen.contains("/dev/vda1"), "{boot}: {seen}");
        ensure!(seen.contains("192.168.7.10/24"), "{boot}: {seen}");
        if boot == "first" {
            vm.shell("echo kept >/var/lib/firstlight/kept; sync")?;
            machine.disks.push(disk::empty(&run_dir, "target", DISK)?);
            continue;
        }
        ensure!(seen.contains("kept"), "{seen}");
        let refused = vm.run("firstboot install --yes --to /dev/vda 2>&1")?;
        ensure!(refused.stdout.contains("is in use"), "{refused:?}");
        // Emulated, it reads and writes a gigabyte.
        let done = vm.shell_within("firstboot install --yes --to /dev/vdb 2>&1", BOOT)?;
        ensure!(done.contains("read back and compared"), "{done}");
    }
    drop(serve);

    // The installed disk boots without any server, as the first of the firmware's boot order.
    machine.disks.remove(0);
    tap.order = NetworkBoot::AfterDisks;
    machine.tap = Some(tap);
    let vm = Vm::start(&host, &run_dir, &machine)?;
    let source = reaches_its_document(&vm)?;
    ensure!(source == "seed-partition", "{source}");
    let seen = vm.shell("findmnt --noheadings --output SOURCE /var; firstboot status")?;
    ensure!(
        seen.contains("/dev/vda7") && !seen.contains("note:"),
        "{seen}"
    );
    drop(vm);
    run_dir.passed();
    Ok(())
}

/// Another DHCP server gives the addresses, `imagegen serve` the boot file and the rest.
#[test]
#[ignore = "5 minutes without KVM; run: cargo test -p vm-tests --test boots_without_a_disk -- --include-ignored"]
fn machine_boots_beside_another_dhcp_server() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let programs = Programs::build()?;
    let output = Output::make(&programs, &topology("one"))?;
    output.add_pxe(&programs)?;
    let run_dir = RunDir::new("boots_beside_dhcp")?;
    let room = Room::new(SERVER)?;
    let dnsmasq = dhcp::program(|| live::tree(host.cache(), &Progress::stderr()))?;
    let other_log = run_dir.folder().join("other.log");
    let range = [100, 120].map(|last| Ipv4Addr::new(192, 168, 7, last));
    let _other = room.other_dhcp(&dnsmasq, Ipv4Addr::new(192, 168, 7, 2), range, &other_log)?;
    let serve = serve(&programs, &output, &room, &run_dir, &[])?;

    let mut machine = machine(&host, "m0", 1);
    machine.tap = Some(room.tap(MAC)?);
    machine.disks = vec![disk::empty(&run_dir, "blank", DISK)?];
    let vm = Vm::start(&host, &run_dir, &machine)?;
    let source = reaches_its_document(&vm)?;
    ensure!(source == "boot-origin", "{source}");
    let status = vm.shell("firstboot status")?;
    ensure!(
        status.contains("note: the root is from http://192.168.7.1:8069/"),
        "{status}"
    );
    drop(vm);

    // Every lease is of the other server, and no file.
    let other = fs::read_to_string(other_log)?;
    let log = serve.log()?;
    let ours = log.lines().filter(|line| line.contains("dnsmasq-dhcp["));
    let ours: Vec<&str> = ours.filter(|line| line.contains(MAC)).collect();
    ensure!(
        other.contains("DHCPACK(other1) 192.168.7.1") && !other.contains("snponly.efi"),
        "{other}"
    );
    ensure!(
        ours.iter().any(|line| line.contains("PXE(room0)"))
            && !ours
                .iter()
                .any(|line| line.contains("DHCPACK") || line.contains("DHCPOFFER")),
        "{log}"
    );
    let fetched = serve.fetched("m0")?;
    let wanted = [
        "DHCP",
        live::LOADER,
        AUTOEXEC,
        live::SCRIPT,
        live::KERNEL,
        live::INITRD,
        live::ROOT,
        live::TREE,
        "user-data",
    ];
    for file in wanted {
        ensure!(fetched.iter().any(|found| found == file), "{file}\n{log}");
    }
    run_dir.passed();
    Ok(())
}

#[test]
#[ignore = "5 minutes without KVM; run: cargo test -p vm-tests --test boots_without_a_disk -- --include-ignored"]
fn machine_boots_from_a_medium() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let programs = Programs::build()?;
    let output = Output::make(&programs, &topology("one"))?;
    output.add_pxe(&programs)?;
    let run_dir = RunDir::new("boots_from_a_medium")?;
    let iso = run_dir.folder().join("m0.iso");
    let mut imagegen = Command::new(&programs.imagegen);
    imagegen.arg("iso").arg("--output").arg(output.folder());
    process::run(imagegen.args(["--host", "m0"]).arg(&iso))?;

    let switch = vm_tests::net::switch::Switch::start(&run_dir)?;
    let mut machine = machine(&host, "m0", 1);
    machine.nics = vec![switch.port()?.nic(MAC)];
    machine.medium = Some(iso);
    machine.disks = vec![disk::empty(&run_dir, "blank", DISK)?];
    let vm = Vm::start(&host, &run_dir, &machine)?;
    let source = reaches_its_document(&vm)?;
    ensure!(source == "boot-origin", "{source}");
    let status = vm.shell("firstboot status; findmnt --noheadings --output SOURCE /var")?;
    ensure!(
        status.contains("note: the root is from the medium /dev/sr0, state is on /dev/vda1"),
        "{status}"
    );
    drop(vm);
    run_dir.passed();
    Ok(())
}

/// A master with its state on a blank disk, and a worker without any disk.
#[test]
#[ignore = "20 minutes without KVM; run: cargo test -p vm-tests --test boots_without_a_disk -- --include-ignored"]
fn machines_that_boot_over_the_network_form_a_cluster() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let programs = Programs::build()?;
    let output = Output::make(&programs, &topology("netboot"))?;
    output.add_pxe(&programs)?;
    let run_dir = RunDir::new("netboot")?;
    let room = Room::new(SERVER)?;
    let _serve = serve(&programs, &output, &room, &run_dir, FULL)?;

    let mut master = machine(&host, "m0", 2);
    master.tap = Some(room.tap(MAC)?);
    master.disks = vec![disk::empty(&run_dir, "blank", DISK)?];
    let mut worker = machine(&host, "n0", 2);
    worker.tap = Some(room.tap("52:54:00:00:07:20")?);
    let worker = Vm::start(&host, &run_dir, &worker)?;
    let master = Vm::start(&host, &run_dir, &master)?;
    for (name, vm) in [("m0", &master), ("n0", &worker)] {
        let ready = wait_ready(vm).with_context(|| name.to_owned())?;
        let boot = ready.since_boot().unwrap_or_default().as_secs_f64();
        println!("{name}: ready {boot:.0} s after power-on by the guest's clock");
    }
    let nodes = master.shell(
        "kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes --no-headers; \
         findmnt --noheadings --output FSTYPE,SOURCE /var",
    )?;
    ensure!(nodes.matches(" Ready ").count() == 2, "{nodes}");
    ensure!(
        nodes.contains("ext4") && nodes.contains("/dev/vda1"),
        "{nodes}"
    );
    let seen = worker.shell(
        "ipvsadm -Ln; cat /etc/hosts; findmnt --noheadings --output SOURCE /var; firstboot status",
    )?;
    for text in [
        "192.168.7.10:6443",
        "apiserver.cluster.local",
        // A file system in memory.
        "/dev/loop",
        "the root is from http://192.168.7.1:8069/",
    ] {
        ensure!(seen.contains(text), "no `{text}` in: {seen}");
    }
    drop((master, worker));
    run_dir.passed();
    Ok(())
}
