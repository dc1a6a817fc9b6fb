//! Tests of the harness itself.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use vm_tests::host::Host;
use vm_tests::host::run_dir::RunDir;
use vm_tests::initrd::InitrdTest;
use vm_tests::machine::disk;
use vm_tests::machine::journal::RecordMatch;
use vm_tests::machine::qemu::{Boot, DiskFormat, Machine};
use vm_tests::machine::vm::Vm;
use vm_tests::net::switch::Switch;

/// Compiles a static program.
fn program(run_dir: &RunDir, source: &str) -> Result<PathBuf> {
    let (file, program) = (
        run_dir.folder().join("program.rs"),
        run_dir.folder().join("program"),
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
    let run_dir = RunDir::new("initrd_test_reports")?;
    let source = r#"fn main() {
        let modules = std::fs::read_to_string("/proc/modules").unwrap();
        for name in ["ip_vs_rr", "ip_vs", "nf_conntrack"] {
            println!("{name} {}", modules.lines().any(|line| line.starts_with(&format!("{name} "))));
        }
        eprint!("{:?} {:?}", std::env::args().skip(1).collect::<Vec<_>>(), std::fs::read_to_string("/etc/brought").unwrap());
        std::process::exit(7);
    }"#;
    let outcome = InitrdTest::new("trivial", &program(&run_dir, source)?)
        .modules(&["ip_vs_rr", "ext4"])
        .arguments(&["one argument", ""])
        .file("/etc/brought", "by the test\n")
        .run(&host, &run_dir, Duration::from_secs(5))?;
    assert_eq!(outcome.status, 7, "{outcome:?}");
    assert_eq!(
        outcome.output,
        "ip_vs_rr true\nip_vs true\nnf_conntrack true\n[\"one argument\", \"\"] \"by the test\\n\""
    );
    run_dir.passed();
    Ok(())
}

#[test]
fn initrd_test_names_a_missing_module() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run_dir = RunDir::new("initrd_test_names_module")?;
    let test = InitrdTest::new("missing", &PathBuf::from("/bin/true")).modules(&["no_such_module"]);
    let error = test
        .run(&host, &run_dir, Duration::from_secs(5))
        .expect_err("the module does not exist");
    assert!(
        format!("{error:#}").contains("`no_such_module`"),
        "{error:#}"
    );
    run_dir.passed();
    Ok(())
}

#[test]
fn kernel_panic_is_an_error_with_the_console() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run_dir = RunDir::new("initrd_test_dies")?;
    let test =
        InitrdTest::new("panics", &PathBuf::from("/bin/true")).kernel_arguments("rdinit=/nothing");
    let error = format!(
        "{:#}",
        test.run(&host, &run_dir, Duration::from_secs(5))
            .expect_err("the kernel has no process 1")
    );
    assert!(error.contains("Kernel panic"), "{error}");
    run_dir.passed();
    Ok(())
}

/// A small Debian from the files of the tools tree, with enough of systemd for the reports.
fn small_debian(host: &Host, run_dir: &RunDir) -> Result<vm_tests::machine::qemu::DiskFile> {
    let root = run_dir.folder().join("root");
    let tree = host.tools().path("");
    let mut copy = Command::new("sh");
    copy.args(["-c", include_str!("small_debian.sh"), "sh"]);
    let status = copy.args([&tree, &root]).status()?;
    assert!(status.success());
    let disk = disk::empty(run_dir, "root", 1 << 30)?;
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

fn debian(host: &Host, run_dir: &RunDir) -> Result<Machine> {
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
        disks: vec![small_debian(host, run_dir)?],
        memory_mib: 1024,
        ..Machine::new("debian", boot)
    })
}

#[test]
fn unmodified_system_sends_its_journal_and_runs_commands() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run_dir = RunDir::new("reports")?;
    let vm = Vm::start(&host, &run_dir, &debian(&host, &run_dir)?)?;
    let record = vm.wait_for(&RecordMatch::id(STARTED), &[], Duration::from_secs(60))?;
    assert!(
        record.get("_BOOT_ID").is_some_and(|id| id.len() == 32),
        "{record:?}"
    );
    let first = vm.journal()?.records().into_iter().next().expect("records");
    assert_eq!(first.get("_TRANSPORT"), Some("kernel"), "{first:?}");
    assert_eq!(
        first.get("_SOURCE_MONOTONIC_TIMESTAMP"),
        Some("0"),
        "the journal does not begin with the boot: {first:?}"
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
    // More output than a pipe or line buffer holds.
    assert_eq!(
        vm.shell("head -c 300000 /dev/zero | tr '\\0' x")?.len(),
        300_000
    );
    vm.power_off()?;
    assert!(!vm.is_running());
    let error = vm.run("true").expect_err("the machine is off");
    assert!(format!("{error:#}").contains("machine is off"), "{error:#}");
    drop(vm);
    run_dir.passed();
    Ok(())
}

#[test]
fn saved_machine_can_be_restored_twice() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run_dir = RunDir::new("restores")?;
    let switch = Switch::start(&run_dir)?;
    let (port, peer) = (switch.port()?, switch.plug()?);
    peer.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut machine = debian(&host, &run_dir)?;
    let image = machine.disks[0].path.clone();
    machine.disks[0] = disk::overlay(&host, &run_dir, "first", &image, DiskFormat::Raw)?;
    // A slowed clock, as machines of a cluster have without KVM.
    machine.time_scale = 0.5;
    let nic = || vec![port.nic("52:54:00:00:07:63")];
    machine.nics = nic();
    let vm = Vm::start(&host, &run_dir, &machine)?;
    vm.wait_for(&RecordMatch::id(STARTED), &[], Duration::from_secs(60))?;
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let id = vm.shell(&format!(
        "echo memory >/run/kept; echo disk >/root/kept; (while :; do date >>/run/alive; sleep 1; done) >/dev/null 2>&1 & {boot}"
    ))?;

    let (state, saved) = (
        run_dir.folder().join("saved.state"),
        run_dir.folder().join("saved.qcow2"),
    );
    vm.pause()?;
    vm.save(&state)?;
    disk::save(&machine.disks[0], &saved)?;
    // The machine keeps running, and its later changes are not part of the saved state.
    vm.resume()?;
    vm.shell("echo later >/root/kept; sync")?;
    drop(vm);

    let mut frame = [0; 2000];
    for time in ["second", "third"] {
        machine.disks[0].path =
            disk::overlay(&host, &run_dir, time, &saved, DiskFormat::Qcow2)?.path;
        machine.nics = nic();
        peer.set_nonblocking(true)?;
        while peer.recv(&mut frame).is_ok() {}
        peer.set_nonblocking(false)?;
        let vm = Vm::restore(&host, &run_dir, &machine, &state)?;
        vm.resume()?;
        assert_eq!(vm.shell("cat /run/kept /root/kept")?, "memory\ndisk\n");
        assert_eq!(vm.shell(boot)?, id, "the machine has not booted again");
        vm.shell(": >/run/alive; echo changed >/root/kept; sync")?;
        let before = std::time::Instant::now();
        vm.shell("until [ $(wc -l </run/alive) -ge 2 ]; do sleep 0.2; done")?;
        assert!(
            before.elapsed() > Duration::from_secs(2),
            "the clock is slowed as before"
        );
        // The restored machine sends its journal to this harness.
        let id = "8a2f5d7e3c1b4e0f9d6a7c5b3e1f2d4c";
        vm.shell(&format!(
            "printf 'MESSAGE_ID={id}\nMESSAGE={time}\n' | logger --journald"
        ))?;
        let record = vm.wait_for(&RecordMatch::id(id), &[], Duration::from_secs(10))?;
        assert_eq!(record.message(), time);
        // The network works: QEMU announces the addresses of a restored machine.
        peer.recv(&mut frame)?;
        assert_eq!(frame[6..12], [0x52, 0x54, 0, 0, 7, 0x63]);
    }
    run_dir.passed();
    Ok(())
}
