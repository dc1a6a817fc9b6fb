//! The host: whether it can run machines, how fast, and the programs it runs them with.
//!
//! If it cannot run machines, a test is skipped with the reason. With `FIRSTLIGHT_NO_SKIP=1`, which
//! CI sets, a skipped test is a failure.

pub mod accel;
pub mod artifacts;
pub mod client_tools;
pub mod cpu_quota;
pub mod debian_tools;
pub mod docker;
pub mod process;
pub mod run_dir;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Result, bail};
use build_tools::cache::Cache;
use build_tools::debian_tree::{Spec, Tree};
use build_tools::progress::Progress;

use self::accel::Accel;
use self::debian_tools::DebianTools;

/// Guest seconds per second of the wall clock: overrides what [`Host::time_scale`] computes.
pub const TIME_SCALE: &str = "FIRSTLIGHT_PACE";
/// A Debian root file system to use in place of the one that the harness builds.
pub const TOOLS: &str = "FIRSTLIGHT_TOOLS";
/// Turns a skipped test into a failure.
pub const NO_SKIP: &str = "FIRSTLIGHT_NO_SKIP";

/// The least free memory with which a machine boots.
const MIN_MEMORY_MIB: u64 = 4096;

#[derive(Debug)]
pub struct Host {
    tools: DebianTools,
    cache: Cache,
    accel: OnceLock<Accel>,
    cores: usize,
}

impl Host {
    /// Prepares the host. Returns `None`, after it has printed the reason, if no machine can run.
    pub fn or_skip() -> Result<Option<Self>> {
        match missing_requirement() {
            None => Self::ready().map(Some),
            Some(reason) if is_skip_forbidden() => {
                bail!("{reason}, and {NO_SKIP}=1 forbids skipping")
            }
            Some(reason) => {
                eprintln!("skipped: {reason}");
                Ok(None)
            }
        }
    }

    /// Prepares the host. The first time it builds the Debian tree with QEMU, which takes a minute.
    pub fn ready() -> Result<Self> {
        let cache = Cache::open()?;
        let tools = match std::env::var_os(TOOLS) {
            Some(path) if !path.is_empty() => DebianTools::at(Path::new(&path))?,
            _ => DebianTools::at(Tree::ensure(&cache, &spec(), &Progress::stderr())?.path())?,
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            tools,
            cache,
            accel: OnceLock::new(),
            cores,
        })
    }

    pub fn tools(&self) -> &DebianTools {
        &self.tools
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// KVM if a kernel boots under it, else TCG. The host is probed once per boot.
    pub fn accel(&self) -> Accel {
        *self
            .accel
            .get_or_init(|| accel::detect(&self.tools, &self.cache))
    }

    /// Guest seconds per second of the wall clock for `machines` that run at the same time.
    ///
    /// 1 with KVM. Under TCG a machine with too little processor time misses the deadlines of its
    /// components, so its clock is slowed. At 1 the start-up probe of Kubernetes 1.37 kills the
    /// apiserver of even a lone machine on two idle cores, after 240 s; at 0.4 it serves after 40 s
    /// of the machine's clock. Two control-plane hosts and a worker formed a cluster at 0.17 and, in
    /// less time, at 0.25.
    pub fn time_scale(&self, machines: usize) -> f64 {
        let override_ = std::env::var(TIME_SCALE).ok();
        if let Some(scale) = override_.and_then(|text| text.parse().ok()) {
            return scale;
        }
        match self.accel() {
            Accel::Kvm => 1.0,
            Accel::Tcg => (0.375 * self.cores as f64 / machines as f64).clamp(0.1, 0.4),
        }
    }

    /// The virtual processors of each of `machines` that run at the same time.
    ///
    /// Emulated machines that share the host's cores get one: two of them wait for each other, and
    /// need about 15 % more of the host's time for the same work.
    pub fn cpus(&self, machines: usize) -> u32 {
        match self.accel() {
            Accel::Tcg if machines > 1 && machines >= self.cores => 1,
            Accel::Kvm | Accel::Tcg => 2,
        }
    }

    /// The cores that each of `machines` with `cpus` processors may use, so that all get the same.
    /// `None` if the host has enough cores for all of them.
    pub fn cpu_quota(&self, machines: usize, cpus: u32) -> Option<f64> {
        let each = self.cores as f64 / machines.max(1) as f64;
        (each < f64::from(cpus)).then_some(each)
    }
}

/// `FIRSTLIGHT_NO_SKIP=1`: a check that cannot run is a failure.
pub(crate) fn is_skip_forbidden() -> bool {
    std::env::var_os(NO_SKIP).is_some_and(|value| value == "1")
}

/// QEMU with firmware and TPM, a kernel for initrd tests, libfaketime, which slows the clocks of guests,
/// and the init system of the small Debian that tests the harness itself.
fn spec() -> Spec {
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
        "swtpm",
    ];
    Spec::new("tests", "trixie", "apt", &packages)
}

/// Why this host cannot run a machine, if it cannot.
fn missing_requirement() -> Option<String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Some("the machines need a Linux host on x86-64".into());
    }
    let available = available_memory_mib()?;
    (available < MIN_MEMORY_MIB).then(|| {
        format!("a machine needs {MIN_MEMORY_MIB} MiB of memory, {available} MiB are available")
    })
}

/// `MemAvailable` of `/proc/meminfo`.
pub fn available_memory_mib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}
