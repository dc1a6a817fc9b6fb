//! Debian's cloud-init and firstboot on the same seed, in turn: on this host, and in a machine whose
//! clock counts instructions, so that neither the host nor its other work counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use build_tools::debian_tree::{Spec, Tree};
use build_tools::progress::Progress;
use serde::Deserialize;

use super::{InitrdTest, static_program};
use crate::host::Host;
use crate::host::artifacts::Programs;
use crate::host::process;
use crate::host::run_dir::RunDir;
use crate::machine::disk;
use crate::machine::qemu::DiskFile;

const MEASURE_SOURCE: &str = include_str!("measure.rs");

/// Of the program in the machine.
const FIRSTBOOT: &str = "/test/firstboot";

const MODULES: &[&str] = &["virtio_blk", "ext4", "overlay", "isofs"];

/// One run of one program.
#[derive(Debug, Clone, Deserialize)]
pub struct Run {
    pub program: String,
    /// User and system, with all child processes.
    pub processor_ns: u64,
    /// Of the largest process.
    pub peak_memory_kib: u64,
    /// What the run has written, with the size of each file.
    pub files: Vec<(String, u64)>,
}

impl Run {
    pub fn processor(&self) -> Duration {
        Duration::from_nanos(self.processor_ns)
    }
}

/// Runs each program `rounds` times on `seed`, an ISO image, in a machine, each time as on a first
/// boot.
pub fn in_machine(host: &Host, run_dir: &RunDir, seed: &Path, rounds: usize) -> Result<Vec<Run>> {
    let tree = debian(host)?;
    let image = disk::empty(run_dir, "debian", 2 << 30)?;
    let mut mke2fs = host.tools().command("sbin/mke2fs", None);
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"]);
    process::run(mke2fs.arg(tree.path()).arg(&image.path))?;
    let firstboot = Programs::build_static()?.join("firstboot");
    let outcome = InitrdTest::new("userdata", &measure(host)?)
        .arguments(&[&rounds.to_string(), FIRSTBOOT])
        .modules(MODULES)
        .file(FIRSTBOOT, fs::read(firstboot)?)
        .disk(DiskFile {
            read_only: true,
            ..image
        })
        .disk(disk::seed(seed))
        .size(1, 2048)
        .counts_instructions()
        .run(host, run_dir, Duration::from_secs(600))?;
    ensure!(outcome.status == 0, "{}", outcome.output);
    runs(&outcome.output)
}

/// The same on this host with the seed in a folder, in namespaces that leave nothing. Needs root.
pub fn on_host(host: &Host, seed: &Path, rounds: usize) -> Result<Vec<Run>> {
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--mount",
        "--propagation",
        "private",
        "--uts",
        "--net",
        "--ipc",
    ]);
    unshare.args(["--pid", "--fork"]).arg(measure(host)?);
    unshare.arg(rounds.to_string());
    unshare.arg(Programs::build_static()?.join("firstboot"));
    unshare.arg(debian(host)?.path()).arg(seed);
    runs(&String::from_utf8_lossy(&process::run(&mut unshare)?))
}

fn measure(host: &Host) -> Result<PathBuf> {
    static_program(host, "userdata-measure", MEASURE_SOURCE)
}

fn runs(output: &str) -> Result<Vec<Run>> {
    let lines = output.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| serde_json::from_str(line).with_context(|| format!("reading `{line}`")))
        .collect()
}

/// Debian 13 with cloud-init, and what its cloud images have for networks.
fn debian(host: &Host) -> Result<Tree> {
    let packages = [
        "cloud-init",
        "netplan.io",
        "systemd-sysv",
        "udev",
        "iproute2",
        "tzdata",
    ];
    let spec = Spec::new("cloud-init", "trixie", "apt", &packages);
    Tree::ensure(host.cache(), &spec, &Progress::stderr())
}

/// The version of cloud-init in that tree.
pub fn version(host: &Host) -> Result<String> {
    let tree = debian(host)?;
    let mut query = Command::new("dpkg-query");
    query.arg(format!(
        "--admindir={}",
        tree.path().join("var/lib/dpkg").display()
    ));
    query.args(["--show", "--showformat=${Version}", "cloud-init"]);
    Ok(String::from_utf8(process::run(&mut query)?)?)
}
