//! The harness itself: what it says of machines must be true of machines.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use vm_tests::host::Host;
use vm_tests::initrd::InitrdTest;
use vm_tests::journal::Want;
use vm_tests::qemu::{Boot, Machine};
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

#[test]
fn an_unmodified_system_reports_its_journal_and_takes_commands() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run = Run::new("reports")?;
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
    let machine = Machine {
        disks: vec![small_debian(&host, &run)?],
        memory_mib: 1024,
        ..Machine::new("debian", boot)
    };
    let vm = Vm::start(&host, &run, &machine)?;

    // "Startup finished", systemd's sd-messages.h.
    let started = Want::id("b07a249cd024414a82dd00cd181378ff");
    let record = vm.wait_for(&started, &[], Duration::from_secs(60))?;
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
