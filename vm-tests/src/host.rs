//! Can this host run machines, and how fast?
//!
//! If it cannot, a test is skipped with the reason; with `FIRSTLIGHT_NO_SKIP=1` (CI) that is a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use build_tools::cache::{Cache, Key};
use build_tools::debian_tree::{Spec, Tree};
use build_tools::progress::Progress;

use crate::initrd::InitrdTest;
use crate::qemu::Accel;
use crate::run::Run;
use crate::tools::ToolsTree;

/// `kvm` or `tcg`: overrides the probe.
pub const ACCEL: &str = "FIRSTLIGHT_ACCEL";
/// Guest seconds per wall second: overrides the choice of the host.
pub const PACE: &str = "FIRSTLIGHT_PACE";
/// A tools tree that was made by other means.
pub const TOOLS: &str = "FIRSTLIGHT_TOOLS";
/// Turns a skip into a failure.
pub const NO_SKIP: &str = "FIRSTLIGHT_NO_SKIP";

/// A kernel with nothing to do is off again within a second under a KVM that works.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Host {
    tools: ToolsTree,
    cache: Cache,
    accel: OnceLock<Accel>,
    cores: usize,
}

impl Host {
    /// The host, ready for machines; `None` after printing why it is not.
    pub fn or_skip() -> Result<Option<Self>> {
        match unfit() {
            None => Self::ready().map(Some),
            Some(reason) if std::env::var_os(NO_SKIP).is_some_and(|value| value == "1") => {
                bail!("{reason}, and {NO_SKIP}=1 allows no skipping")
            }
            Some(reason) => {
                eprintln!("skipped: {reason}");
                Ok(None)
            }
        }
    }

    /// Makes what is missing: the tools tree takes about a minute the first time.
    pub fn ready() -> Result<Self> {
        let cache = Cache::open()?;
        let tools = match std::env::var_os(TOOLS) {
            Some(path) if !path.is_empty() => ToolsTree::at(Path::new(&path))?,
            _ => ToolsTree::at(Tree::ensure(&cache, &tools(), &Progress::stderr())?.path())?,
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            tools,
            cache,
            accel: OnceLock::new(),
            cores,
        })
    }

    pub fn tools(&self) -> &ToolsTree {
        &self.tools
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// KVM where it was seen to work, else TCG. Probed once per boot of this host.
    pub fn accel(&self) -> Accel {
        *self.accel.get_or_init(|| {
            accel_from_environment().unwrap_or_else(|| {
                self.probe().unwrap_or_else(|error| {
                    eprintln!("KVM could not be probed ({error:#}), using TCG");
                    Accel::Tcg
                })
            })
        })
    }

    /// Guest seconds per wall second for `machines` that run together: 1 with KVM. Under TCG deadlines inside break when
    /// a machine gets too little; three masters and a node formed at 0.28 on two cores that had nothing else to do.
    pub fn pace(&self, machines: usize) -> f64 {
        if let Some(pace) = std::env::var(PACE).ok().and_then(|pace| pace.parse().ok()) {
            return pace;
        }
        match self.accel() {
            Accel::Kvm => 1.0,
            Accel::Tcg if machines <= 1 && self.cores >= 2 => 1.0,
            Accel::Tcg => (self.cores as f64 / (1.8 * machines as f64)).clamp(0.1, 1.0),
        }
    }

    /// What each of `machines` with `cpus` processors can have of this host for itself; none where there is enough for
    /// all.
    pub fn share(&self, machines: usize, cpus: u32) -> Option<f64> {
        let each = self.cores as f64 / machines.max(1) as f64;
        (each < f64::from(cpus)).then_some(each)
    }

    fn probe(&self) -> Result<Accel> {
        if fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            return Ok(Accel::Tcg);
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("reading the host's boot id")?;
        let qemu = fs::metadata(self.tools.path("usr/bin/qemu-system-x86_64"))?;
        let key = Key::new("kvm", 1)
            .with("boot", boot.trim())
            .with("qemu", qemu.len().to_string());
        let answer = self.cache.ensure("kvm", &key, |path| {
            let works = self.boots_under(Accel::Kvm).is_ok();
            fs::write(path, if works { "works" } else { "hangs" })
                .context("keeping the answer of the KVM probe")
        })?;
        Ok(if fs::read_to_string(answer)? == "works" {
            Accel::Kvm
        } else {
            Accel::Tcg
        })
    }

    fn boots_under(&self, accel: Accel) -> Result<()> {
        let run = Run::new("kvm-probe")?;
        let result = InitrdTest::empty("probe").run_under(self, accel, &run, PROBE_DEADLINE);
        // A KVM that hangs is an answer and needs no evidence.
        run.passed();
        result.map(drop)
    }
}

/// QEMU, its firmware, a kernel for initrd tests, the library that slows guests' clocks, and the init of the small
/// Debian that the harness is tested with.
fn tools() -> Spec {
    let packages = [
        "qemu-system-x86",
        "qemu-utils",
        "ovmf",
        "seabios",
        "libfaketime",
        "linux-image-cloud-amd64",
        "e2fsprogs",
        "systemd-sysv",
        "udev",
    ];
    Spec::new("tests", "trixie", "apt", &packages)
}

fn accel_from_environment() -> Option<Accel> {
    match std::env::var(ACCEL).ok()?.as_str() {
        "kvm" => Some(Accel::Kvm),
        "tcg" => Some(Accel::Tcg),
        other => {
            eprintln!("{ACCEL}={other} is neither `kvm` nor `tcg`, probing");
            None
        }
    }
}

/// Why machines cannot run here at all, if so.
fn unfit() -> Option<String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Some("machines are x86-64 and the harness needs Linux".into());
    }
    let available = memory_mib("MemAvailable:")?;
    (available < 4096)
        .then(|| format!("a machine needs 4096 MiB of memory, {available} MiB are free"))
}

fn memory_mib(field: &str) -> Option<u64> {
    let text = fs::read_to_string(PathBuf::from("/proc/meminfo")).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|kib| kib / 1024)
}
