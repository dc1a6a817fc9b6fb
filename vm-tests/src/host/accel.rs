//! Which accelerator QEMU uses on this host.
//!
//! `/dev/kvm` proves little: in some containers and nested machines it opens and the guest then
//! hangs. A kernel is therefore booted under KVM once, with QEMU's arguments as they stand here:
//! no `Vm`, which itself needs to know the accelerator.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use build_tools::cache::{Cache, Key};

use super::debian_tools::DebianTools;
use super::process;

/// `kvm` or `tcg`: overrides the probe.
pub const ACCEL: &str = "FIRSTLIGHT_ACCEL";

/// Under a working KVM the probe's kernel ends within a second.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// The kernel has no root file system, so a complete boot ends with this panic.
const BOOT_IS_COMPLETE: &str = "Unable to mount root fs";

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    Kvm,
    /// QEMU's own translator: about ten times slower, and it works everywhere.
    Tcg,
}

/// The accelerator that the environment names, else KVM if it works, else TCG.
pub(super) fn detect(tools: &DebianTools, cache: &Cache) -> Accel {
    from_environment().unwrap_or_else(|| {
        probe(tools, cache).unwrap_or_else(|error| {
            eprintln!("the KVM probe failed ({error:#}), using TCG");
            Accel::Tcg
        })
    })
}

fn from_environment() -> Option<Accel> {
    match std::env::var(ACCEL).ok()?.as_str() {
        "kvm" => Some(Accel::Kvm),
        "tcg" => Some(Accel::Tcg),
        other => {
            eprintln!("{ACCEL}={other} is neither `kvm` nor `tcg`, probing the host");
            None
        }
    }
}

/// Boots a kernel under KVM. The result is cached until the host reboots or QEMU changes.
fn probe(tools: &DebianTools, cache: &Cache) -> Result<Accel> {
    let mut device = fs::OpenOptions::new();
    if device.read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accel::Tcg);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("reading the host's boot id")?;
    let qemu = fs::metadata(tools.path("usr/bin/qemu-system-x86_64"))?;
    let key = Key::new("kvm", 2)
        .with("boot", boot.trim())
        .with("qemu", qemu.len().to_string());
    let result = cache.ensure("kvm", &key, |path| {
        let works = boots(tools, "kvm").is_ok();
        fs::write(path, if works { "works" } else { "hangs" })
            .context("writing the result of the KVM probe")
    })?;
    Ok(match fs::read_to_string(result)?.as_str() {
        "works" => Accel::Kvm,
        _ => Accel::Tcg,
    })
}

/// Fails unless the kernel of the tree boots under `accel` before the deadline.
fn boots(tools: &DebianTools, accel: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let console = folder.path().join("console.log");
    let mut command = tools.command("bin/qemu-system-x86_64", None);
    command
        .args(arguments(accel, &tools.kernel()?.image, &console))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    for data in tools.qemu_data() {
        command.arg("-L").arg(data);
    }
    let mut child = command.spawn().context("starting QEMU")?;
    let end = Instant::now() + PROBE_DEADLINE;
    let status = loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            other => break other,
        }
    };
    process::end(&mut child);
    let Some(status) = status? else {
        bail!("the kernel does not end within {PROBE_DEADLINE:?}");
    };
    // A triple fault ends QEMU with success too, because of `-no-reboot`.
    let text = fs::read(&console).unwrap_or_default();
    ensure!(
        status.success() && String::from_utf8_lossy(&text).contains(BOOT_IS_COMPLETE),
        "QEMU: {status}, and the kernel did not look for its root file system"
    );
    Ok(())
}

/// The smallest machine that boots a kernel: one processor, a serial console, no disk, no network.
fn arguments(accel: &str, kernel: &Path, console: &Path) -> Vec<String> {
    let cpu = if accel == "kvm" { "host" } else { "max" };
    // `panic=-1` resets the machine at once, and `-no-reboot` ends QEMU on a reset.
    let words = format!(
        "-nodefaults -no-user-config -no-reboot -display none -machine q35,smm=off \
         -accel {accel} -cpu {cpu} -smp 1 -m 512M"
    );
    let mut list: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
    list.extend(["-kernel".into(), kernel.display().to_string()]);
    list.extend(["-append".into(), "console=ttyS0 quiet panic=-1".into()]);
    let file = console.display().to_string().replace(',', ",,");
    list.extend(["-serial".into(), format!("file:{file}")]);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_machine_has_a_console_and_ends_on_reset() {
        let list = arguments("kvm", Path::new("/t/vmlinuz"), Path::new("/r/a,b")).join(" ");
        assert!(list.contains("-no-reboot"), "{list}");
        assert!(list.contains("-accel kvm -cpu host"), "{list}");
        assert!(list.contains("-kernel /t/vmlinuz"), "{list}");
        assert!(list.ends_with("-serial file:/r/a,,b"), "{list}");
    }
}
