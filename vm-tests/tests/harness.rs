//! The harness itself: what it says of machines must be true of machines.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use vm_tests::disk;
use vm_tests::host::Host;
use vm_tests::initrd::InitrdTest;
use vm_tests::journal::Want;
use vm_tests::net::Switch;
use vm_tests::qemu::{Boot, DiskFormat, Machine};
use vm_tests::run::Run;
use vm_tests::vm::Vm;

/// A static program made for one test.
fn program(run: &Run, source: &str) -> Result<PathBuf> {
    let (file, program) = (
        run.folder().join("program.rs"),
        run.folder().join("program"),
    );
    std::fs::write(&file, source)?;
    let status = Command::new("rustc")
        .args([
            "--edition=2024",
            "--target=x86_64-unknown-linux-gnu",
            "-Ctarget-feature=+crt-static",
            "-o",
        ])
        .args([&program, &file])
        .status()?;
    assert!(status.success());
    Ok(program)
}

#[test]
fn initrd_test_reports_status_output_and_modules() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run = Run::new("initrd_test_reports")?;
    let source = r#"fn main() {
        let modules = std::fs::read_to_string("/proc/modules").unwrap();
        for name in ["ip_vs_rr", "ip_vs", "nf_conntrack"] {
            println!("{name} {}", modules.lines().any(|line| line.starts_with(&format!("{name} "))));
        }
        eprint!("{:?} {:?}", std::env::args().skip(1).collect::<Vec<_>>(), std::fs::read_to_string("/etc/brought").unwrap());
        std::process::exit(7);
    }"#;
    let outcome = InitrdTest::new("trivial", &program(&run, source)?)
        .modules(&["ip_vs_rr", "ext4"])
        .arguments(&["one argument", ""])
        .file("/etc/brought", "by the test\n")
        .run(&host, &run, Duration::from_secs(5))?;
    assert_eq!(outcome.status, 7, "{outcome:?}");
    assert_eq!(
        outcome.output,
        "ip_vs_rr true\nip_vs true\nnf_conntrack true\n[\"one argument\", \"\"] \"by the test\\n\""
    );
    run.passed();
    Ok(())
}

#[test]
fn initrd_test_names_a_module_that_is_not_there() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run = Run::new("initrd_test_names_module")?;
    let test = InitrdTest::new("missing", &PathBuf::from("/bin/true")).modules(&["no_such_module"]);
    let error = test
        .run(&host, &run, Duration::from_secs(5))
        .expect_err("there is no such module");
    assert!(
        format!("{error:#}").contains("`no_such_module`"),
        "{error:#}"
    );
    run.passed();
    Ok(())
}

#[test]
fn initrd_test_that_dies_is_an_error_with_its_console() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run = Run::new("initrd_test_dies")?;
    let test =
        InitrdTest::new("panics", &PathBuf::from("/bin/true")).kernel_arguments("rdinit=/nothing");
    let error = format!(
        "{:#}",
        test.run(&host, &run, Duration::from_secs(5))
            .expect_err("no process 1")
    );
    assert!(error.contains("Kernel panic"), "{error}");
    run.passed();
    Ok(())
}

/// A small Debian of the tools tree's own files: enough systemd to see the reports work.
fn small_debian(host: &Host, run: &Run) -> Result<vm_tests::qemu::DiskFile> {
    let root = run.folder().join("root");
    let tree = host.tools().path("");
    let copy = format!(
        "set -e; mkdir -p {root}/usr/lib {root}/dev {root}/proc {root}/sys {root}/run {root}/tmp {root}/var {root}/root; \
         cd {tree}; for link in bin sbin lib lib64; do cp -a $link {root}/; done; cp -a etc {root}/; \
         mkdir -p {root}/usr/share; cp -a usr/bin usr/sbin usr/lib64 {root}/usr/; \
         rm -f {root}/usr/bin/qemu*; \
         cd usr/lib; cp -a os-release systemd udev x86_64-linux-gnu {root}/usr/lib/; rm -rf {root}/usr/lib/x86_64-linux-gnu/qemu; \
         rm -f {root}/etc/machine-id; : >{root}/etc/machine-id; echo >{root}/etc/fstab",
        root = root.display(),
        tree = tree.display()
    );
    let status = Command::new("sh").args(["-c", &copy]).status()?;
    assert!(status.success());
    let disk = vm_tests::disk::empty(run, "root", 1 << 30)?;
    let status = host
        .tools()
        .command("sbin/mke2fs", None)
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .args([&root, &disk.path])
        .status()?;
    assert!(status.success());
    std::fs::remove_dir_all(root)?;
    Ok(disk)
}

/// "Startup finished", systemd's sd-messages.h.
const STARTED: &str = "b07a249cd024414a82dd00cd181378ff";

fn debian(host: &Host, run: &Run) -> Result<Machine> {
    let kernel = host.tools().kernel()?;
    let release = kernel
        .modules
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let boot = Boot::Kernel {
        kernel: kernel.image,
        initrd: Some(host.tools().path(&format!("boot/initrd.img-{release}"))),
        append: "console=ttyS0 panic=1 root=/dev/vda rw systemd.unit=sysinit.target".into(),
    };
    Ok(Machine {
        disks: vec![small_debian(host, run)?],
        memory_mib: 1024,
        ..Machine::new("debian", boot)
    })
}

#[test]
fn an_unmodified_system_reports_its_journal_and_takes_commands() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run = Run::new("reports")?;
    let vm = Vm::start(&host, &run, &debian(&host, &run)?)?;
    let record = vm.wait_for(&Want::id(STARTED), &[], Duration::from_secs(60))?;
    assert!(
        record.get("_BOOT_ID").is_some_and(|id| id.len() == 32),
        "{record:?}"
    );
    let first = vm.journal()?.records().into_iter().next().expect("records");
    assert_eq!(first.get("_TRANSPORT"), Some("kernel"), "{first:?}");
    assert_eq!(
        first.get("_SOURCE_MONOTONIC_TIMESTAMP"),
        Some("0"),
        "not from the start: {first:?}"
    );

    let output = vm.run("echo \"on $(cat /proc/1/comm)\"; echo wrong >&2; exit 3")?;
    assert_eq!(
        (
            output.status,
            output.stdout.as_str(),
            output.stderr.as_str()
        ),
        (3, "on systemd\n", "wrong\n")
    );
    // More than any pipe or line buffer holds, and not text.
    assert_eq!(
        vm.ok("head -c 300000 /dev/zero | tr '\\0' x")?.len(),
        300_000
    );
    vm.power_off()?;
    assert!(!vm.is_running());
    let error = vm.run("true").expect_err("the machine is off");
    assert!(format!("{error:#}").contains("machine is off"), "{error:#}");
    drop(vm);
    run.passed();
    Ok(())
}

#[test]
fn a_saved_machine_goes_on_again_and_again_where_it_was() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run = Run::new("restores")?;
    let switch = Switch::start(&run)?;
    let (port, peer) = (switch.port()?, switch.plug()?);
    peer.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut machine = debian(&host, &run)?;
    let image = machine.disks[0].path.clone();
    machine.disks[0] = disk::overlay(&host, &run, "first", &image, DiskFormat::Raw)?;
    // Slowed, as machines of a cluster are without KVM.
    machine.pace = 0.5;
    let nic = || vec![port.nic("52:54:00:00:07:63")];
    machine.nics = nic();
    let vm = Vm::start(&host, &run, &machine)?;
    vm.wait_for(&Want::id(STARTED), &[], Duration::from_secs(60))?;
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let id = vm.ok(&format!(
        "echo memory >/run/kept; echo disk >/root/kept; (while :; do date >>/run/alive; sleep 1; done) >/dev/null 2>&1 & {boot}"
    ))?;

    let (state, saved) = (
        run.folder().join("saved.state"),
        run.folder().join("saved.qcow2"),
    );
    vm.pause()?;
    vm.save(&state)?;
    disk::save(&machine.disks[0], &saved)?;
    // The one that was saved goes on too, and what it does is not in what was saved.
    vm.go_on()?;
    vm.ok("echo later >/root/kept; sync")?;
    drop(vm);

    let mut frame = [0; 2000];
    for time in ["second", "third"] {
        machine.disks[0].path = disk::overlay(&host, &run, time, &saved, DiskFormat::Qcow2)?.path;
        machine.nics = nic();
        peer.set_nonblocking(true)?;
        while peer.recv(&mut frame).is_ok() {}
        peer.set_nonblocking(false)?;
        let vm = Vm::restore(&host, &run, &machine, &state)?;
        vm.go_on()?;
        assert_eq!(vm.ok("cat /run/kept /root/kept")?, "memory\ndisk\n");
        assert_eq!(vm.ok(boot)?, id, "not a boot of its own");
        vm.ok(": >/run/alive; echo changed >/root/kept; sync")?;
        let before = std::time::Instant::now();
        vm.ok("until [ $(wc -l </run/alive) -ge 2 ]; do sleep 0.2; done")?;
        assert!(
            before.elapsed() > Duration::from_secs(2),
            "its clock is slowed as before"
        );
        // The journal goes on, in this harness's hands.
        let id = "8a2f5d7e3c1b4e0f9d6a7c5b3e1f2d4c";
        vm.ok(&format!(
            "printf 'MESSAGE_ID={id}\nMESSAGE={time}\n' | logger --journald"
        ))?;
        let record = vm.wait_for(&Want::id(id), &[], Duration::from_secs(10))?;
        assert_eq!(record.message(), time);
        // And its cable is in: QEMU itself announces a machine that came from elsewhere.
        peer.recv(&mut frame)?;
        assert_eq!(frame[6..12], [0x52, 0x54, 0, 0, 7, 0x63]);
    }
    run.passed();
    Ok(())
}
