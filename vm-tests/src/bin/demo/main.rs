//! `cargo demo`: from a topology to a cluster that one can use, in one command.
//!
//! Everything it does a user could do by hand with `imagegen` and QEMU; nothing here is needed by either.

mod follow;
mod interrupt;
mod progress;
mod screen;
mod topology;
mod tour;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result, bail};
use clap::Parser;
use vm_tests::artifacts::{Output, Programs};
use vm_tests::cluster::Cluster;
use vm_tests::host::Host;
use vm_tests::kube;
use vm_tests::qemu::Accel;
use vm_tests::run::Run;
use vm_tests::vm::Vm;

use screen::say;

/// Builds an image, forms a cluster of machines that boot it under QEMU, and shows it.
#[derive(Debug, Parser)]
struct Cli {
    /// How many masters; an odd number, so that a majority is left when one is lost.
    #[arg(long, value_name = "N", default_value_t = 3)]
    masters: u32,
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 1)]
    nodes: u32,
    /// A topology of your own, on the network 192.168.7.0/24.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["masters", "nodes"])]
    topology: Option<PathBuf>,
    /// End after the tables instead of keeping the cluster until Ctrl-C.
    #[arg(long)]
    once: bool,
    /// Keep the machines' disks, consoles and journals.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let result = interrupt::watch().and_then(|()| demo(&Cli::parse()));
    if interrupt::is_set() {
        eprintln!("demo: interrupted; the machines are off");
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
    say("looking at this host");
    let host = Host::ready()?;
    let mut run = Run::new("demo")?;
    if cli.keep {
        run.keep();
    }
    let result = form(cli, &host, &run, &output);
    // What a person has ended needs no evidence.
    if result.is_ok() || interrupt::is_set() {
        run.passed();
    }
    result
}

/// From power-on to the tables, and on until Ctrl-C unless told otherwise. All machines are off afterwards.
fn form(cli: &Cli, host: &Host, run: &Run, output: &Output) -> Result<()> {
    let cluster = Cluster::new(host, run, output)?;
    if let Some(warning) = memory(&cluster, &fs::read_to_string("/proc/meminfo")?) {
        say(&warning);
    }
    say(&announcement(host, &cluster));
    let mut machines = Vec::new();
    for member in &cluster.members {
        interrupt::check()?;
        machines.push(member.start(host, run)?);
    }
    follow::until_ready(&cluster, &machines)?;

    let mut all = cluster.members.iter().zip(&machines);
    let (_, first) = all
        .find(|(member, _)| member.is_master)
        .context("the topology has no master")?;
    let kubeconfig = tour::kubeconfig(&cluster, output, run.folder())?;
    let kubectl = kube::kubectl(host)?;
    tour::nodes(&kubectl, &kubeconfig, first.wall(Duration::from_secs(60)))?;
    interrupt::check()?;
    tour::status(first)?;
    let mut all = cluster.members.iter().zip(&machines);
    if let Some((_, node)) = all.find(|(member, _)| !member.is_master) {
        interrupt::check()?;
        tour::node(node)?;
    }
    say(&format!("\nthe image     {}", output.image().display()));
    if !cli.once {
        tour::manual(&kubectl, &kubeconfig, &cluster, &machines);
        say("\nCtrl-C switches the machines off.");
        until_interrupted(&machines)?;
    }
    for vm in &machines {
        vm.power_cut()?;
    }
    Ok(())
}

/// Machines take their memory as they need it, so that a little too much may do.
fn memory(cluster: &Cluster, meminfo: &str) -> Option<String> {
    let line = meminfo
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let free = line.split_whitespace().nth(1)?.parse::<u64>().ok()? >> 10;
    let machines = cluster
        .members
        .iter()
        .map(|one| u64::from(one.machine.memory_mib));
    let wanted: u64 = machines.sum();
    (wanted > free).then(|| {
        format!(
            "warning: the machines may use {wanted} MiB of memory and {free} MiB are free; --masters and --nodes make fewer"
        )
    })
}

fn until_interrupted(machines: &[Vm]) -> Result<()> {
    while !interrupt::is_set() {
        if let Some(off) = machines.iter().find(|vm| !vm.is_running()) {
            bail!(
                "machine `{}` switched itself off; evidence: {}",
                off.name(),
                off.folder().display()
            );
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Whose machines, under what, and how long that takes.
fn announcement(host: &Host, cluster: &Cluster) -> String {
    let names: Vec<_> = cluster
        .members
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    let names = names.join(", ");
    match host.accel() {
        Accel::Kvm => format!("switching on {names} under QEMU"),
        Accel::Tcg => {
            let pace = cluster.first().machine.pace;
            let guest = follow::usual(cluster);
            format!(
                "switching on {names} under QEMU, emulated, because KVM does not work here: {}expect about {} minutes",
                match pace < 1.0 {
                    true => format!(
                        "their clocks run at {pace:.2} of this host's, so that their deadlines hold; "
                    ),
                    false => String::new(),
                },
                (guest.as_secs_f64() / pace / 60.0).ceil()
            )
        }
    }
}
