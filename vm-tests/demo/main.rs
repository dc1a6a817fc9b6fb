//! `cargo demo`: builds an image from a topology and forms a cluster of QEMU machines with it.
//!
//! A user can do the same by hand with `imagegen` and QEMU.

mod follow;
mod interrupt;
mod progress;
mod screen;
mod topology;
mod tour;

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use vm_tests::cluster::Cluster;
use vm_tests::cluster::kubectl;
use vm_tests::host::accel::Accel;
use vm_tests::host::artifacts::{Output, Programs};
use vm_tests::host::run_dir::RunDir;
use vm_tests::host::{Host, available_memory_mib};
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
    say("building the image");
    let output = Output::make(&programs, &topology)?;
    interrupt::check()?;
    say("preparing QEMU");
    let host = Host::ready()?;
    let mut run_dir = RunDir::new("demo")?;
    if cli.keep {
        run_dir.keep();
    }
    let result = form(cli, &host, &run_dir, &output);
    // After Ctrl-C nobody needs evidence.
    if result.is_ok() || interrupt::is_set() {
        run_dir.passed();
    }
    result
}

/// Starts the cluster, shows the tables, and waits for Ctrl-C. Afterwards all machines are off.
fn form(cli: &Cli, host: &Host, run_dir: &RunDir, output: &Output) -> Result<()> {
    let cluster = Cluster::new(host, run_dir, output)?;
    if let Some(warning) = memory_warning(&cluster) {
        say(&warning);
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

/// A warning if the machines may use more memory than the host has. They allocate it on demand, so
/// this is not an error.
fn memory_warning(cluster: &Cluster) -> Option<String> {
    let available = available_memory_mib()?;
    let machines = cluster.members.iter();
    let needed: u64 = machines
        .map(|member| u64::from(member.machine.memory_mib))
        .sum();
    (needed > available).then(|| {
        format!(
            "warning: the machines may use {needed} MiB of memory, {available} MiB are available; \
             start fewer with --masters and --nodes"
        )
    })
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
