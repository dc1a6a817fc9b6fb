//! `cargo demo`: builds an image from a topology and forms a cluster of QEMU machines with it.
//!
//! A user can do the same by hand with `imagegen` and QEMU.

mod follow;
mod interrupt;
mod progress;
mod screen;
mod topology;
mod tour;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use vm_tests::cluster::Cluster;
use vm_tests::cluster::kubectl;
use vm_tests::cluster::ssh;
use vm_tests::host::Host;
use vm_tests::host::accel::Accel;
use vm_tests::host::artifacts::{Output, Programs};
use vm_tests::host::run_dir::{RunDir, target_dir};
use vm_tests::machine::vm::Vm;

use screen::say;

/// Builds an image, boots a cluster of QEMU machines from it, and shows the cluster.
#[derive(Debug, Parser)]
struct Cli {
    /// Number of control-plane hosts. With an odd number etcd tolerates the most failures.
    #[arg(long, value_name = "N", default_value_t = 3)]
    masters: u32,
    /// Number of workers.
    #[arg(long, value_name = "N", default_value_t = 1)]
    nodes: u32,
    /// Use your own topology, with addresses in 192.168.7.0/24 and fd00:7::/64.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["masters", "nodes"])]
    topology: Option<PathBuf>,
    /// Exit after the tables. By default the cluster runs until Ctrl-C.
    #[arg(long)]
    once: bool,
    /// Keep the disks, consoles and journals of the machines.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let result = interrupt::watch().and_then(|()| demo(&Cli::parse()));
    if interrupt::is_set() {
        eprintln!("demo: interrupted; all machines are off");
        return ExitCode::from(130);
    }
    if let Err(error) = result {
        eprintln!("demo: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn demo(cli: &Cli) -> Result<()> {
    let topology = match &cli.topology {
        Some(path) => path.clone(),
        None => topology::write(cli.masters, cli.nodes)?,
    };
    say("building the programs");
    let programs = Programs::build()?;
    let (topology, key) = with_own_key(topology)?;
    say("building the image");
    let output = Output::make(&programs, &topology)?;
    interrupt::check()?;
    say("preparing QEMU");
    let host = Host::ready()?;
    let mut run_dir = RunDir::new("demo")?;
    if cli.keep {
        run_dir.keep();
    }
    let result = form(cli, &host, &run_dir, &output, key.as_deref());
    // After Ctrl-C no evidence is needed.
    if result.is_ok() || interrupt::is_set() {
        run_dir.passed();
    }
    result
}

/// A topology with keys gets one more, whose private half this user has, and so the demo can log in
/// and tell how. Without keys no host runs a login server.
fn with_own_key(topology: PathBuf) -> Result<(PathBuf, Option<PathBuf>)> {
    let name = topology.file_name().context("the topology has no name")?;
    let folder = target_dir().join("vm-tests/demo");
    fs::create_dir_all(&folder).with_context(|| format!("creating `{}`", folder.display()))?;
    let changed = folder.join(name);
    let key = ssh::key(&folder)?;
    Ok(match ssh::add_key(&topology, &key, &changed)? {
        true => (changed, Some(key)),
        false => (topology, None),
    })
}

/// Starts the cluster, shows the tables, and waits for Ctrl-C. Afterwards all machines are off.
fn form(
    cli: &Cli,
    host: &Host,
    run_dir: &RunDir,
    output: &Output,
    key: Option<&Path>,
) -> Result<()> {
    let cluster = Cluster::new(host, run_dir, output)?;
    if let Some(warning) = cluster.memory_warning() {
        say(&format!(
            "{warning}; start fewer with --masters and --nodes"
        ));
    }
    say(&announcement(host, &cluster));
    let mut machines = Vec::new();
    for member in &cluster.members {
        interrupt::check()?;
        machines.push(member.start(host, run_dir)?);
    }
    follow::until_ready(&cluster, &machines)?;

    let mut all = cluster.members.iter().zip(&machines);
    let (_, first) = all
        .find(|(member, _)| member.is_control_plane)
        .context("the topology has no master")?;
    let kubeconfig = tour::kubeconfig(&cluster, output, run_dir.folder())?;
    let kubectl = kubectl::kubectl(host)?;
    tour::cluster(&kubectl, &kubeconfig, first.wall(Duration::from_secs(120)))?;
    interrupt::check()?;
    tour::status(first)?;
    let mut all = cluster.members.iter().zip(&machines);
    if let Some((_, node)) = all.find(|(member, _)| !member.is_control_plane) {
        interrupt::check()?;
        tour::node(node)?;
    }
    if let Some(key) = key {
        let all = cluster.members.iter().zip(&machines);
        tour::logins(&cluster, all, key, run_dir.folder())?;
    }
    say(&format!("\nimage         {}", output.image().display()));
    if !cli.once {
        tour::manual(&kubectl, &kubeconfig, &cluster, &machines);
        say("\nPress Ctrl-C to stop the machines.");
        until_interrupted(&machines)?;
    }
    for vm in &machines {
        vm.power_cut()?;
    }
    Ok(())
}

fn until_interrupted(machines: &[Vm]) -> Result<()> {
    while !interrupt::is_set() {
        if let Some(off) = machines.iter().find(|vm| !vm.is_running()) {
            bail!(
                "machine `{}` has powered off; evidence: {}",
                off.name(),
                off.folder().display()
            );
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// The machines, the accelerator and the expected time.
fn announcement(host: &Host, cluster: &Cluster) -> String {
    let names: Vec<_> = cluster
        .members
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    let names = names.join(", ");
    match host.accel() {
        Accel::Kvm => format!("starting {names} under QEMU with KVM"),
        Accel::Tcg => {
            let time_scale = cluster.first().machine.time_scale;
            let guest = follow::expected_time(cluster);
            let clocks = if time_scale < 1.0 {
                format!("guest clocks run at {time_scale:.2} of real time so that timeouts hold; ")
            } else {
                String::new()
            };
            format!(
                "starting {names} under QEMU without KVM, which does not work on this host: \
                 {clocks}expect about {} minutes",
                (guest.as_secs_f64() / time_scale / 60.0).ceil()
            )
        }
    }
}
