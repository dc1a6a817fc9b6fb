//! `cargo demo`: from a topology to a cluster that one can use, in one command.
//!
//! Everything it does a user could do by hand with `imagegen` and QEMU; nothing here is needed by either.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result, bail};
use clap::Parser;
use firstboot::journal;
use vm_tests::artifacts::{Output, Programs};
use vm_tests::cluster::{Cluster, Member, READY_DEADLINE};
use vm_tests::host::Host;
use vm_tests::journal::Record;
use vm_tests::qemu::Accel;
use vm_tests::run::{Run, target_dir};
use vm_tests::vm::Vm;

const TOPOLOGY: &str = include_str!("../../topologies/demo.yaml");

/// Set by the first Ctrl-C; the second one ends the process at once.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Builds an image from a topology, boots the cluster under QEMU, and shows it.
#[derive(Debug, Parser)]
struct Cli {
    /// A topology of your own instead of the one with a single master.
    #[arg(long)]
    topology: Option<PathBuf>,
    /// End after the table instead of keeping the cluster until Ctrl-C.
    #[arg(long)]
    once: bool,
    /// Keep the machines' disks, consoles and journals.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    match demo(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if INTERRUPTED.load(Ordering::Relaxed) => {
            eprintln!("demo: interrupted; the machines are off");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(cli: &Cli) -> Result<()> {
    say("building the programs");
    let programs = Programs::build()?;
    say("building the image");
    let output = Output::make(&programs, &topology(cli)?)?;
    interruptible()?;
    say("looking at this host");
    let host = Host::ready()?;
    let run = Run::new("demo")?;
    if cli.keep {
        eprintln!("the machines' files lie in `{}`", run.folder().display());
    }
    let cluster = Cluster::new(&host, &run, &output)?;
    say(&format!(
        "switching on {} under QEMU{}",
        names(&cluster),
        match host.accel() {
            Accel::Kvm => "",
            Accel::Tcg => " (without KVM, which takes about ten times as long)",
        }
    ));
    let mut machines = Vec::new();
    for member in &cluster.members {
        machines.push(member.start(&host, &run)?);
    }
    follow_until_ready(&machines)?;

    let first = cluster.first();
    let kubeconfig = kubeconfig_through_door(&cluster, first, &output, run.folder())?;
    let kubectl = vm_tests::kube::kubectl(&host)?;
    say("kubectl get nodes");
    show_nodes(
        &kubectl,
        &kubeconfig,
        machines[0].wall(Duration::from_secs(60)),
    )?;
    println!("\nthe image    {}", output.image().display());
    if !cli.once {
        println!("the console  less -R {}", console(&machines[0]));
        println!("the cluster  export KUBECONFIG={}", kubeconfig.display());
        println!("             {} get pods -A", kubectl.display());
        println!("\nCtrl-C switches the machines off.");
        while !INTERRUPTED.load(Ordering::Relaxed) {
            if let Some(off) = machines.iter().find(|vm| !vm.is_running()) {
                bail!(
                    "machine `{}` switched itself off; evidence: {}",
                    off.name(),
                    off.folder().display()
                );
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
    for vm in &machines {
        vm.power_cut()?;
    }
    if !cli.keep {
        run.passed();
    }
    Ok(())
}

/// The embedded topology becomes a file, because that is what `imagegen` is given by anybody.
fn topology(cli: &Cli) -> Result<PathBuf> {
    if let Some(path) = &cli.topology {
        return Ok(path.clone());
    }
    let folder = target_dir().join("vm-tests");
    fs::create_dir_all(&folder)?;
    let path = folder.join("demo.yaml");
    fs::write(&path, TOPOLOGY).with_context(|| format!("writing `{}`", path.display()))?;
    Ok(path)
}

/// Prints what every machine says of its first boot until all are ready.
fn follow_until_ready(machines: &[Vm]) -> Result<()> {
    thread::scope(|scope| {
        let followers: Vec<_> = machines
            .iter()
            .map(|vm| scope.spawn(move || follow(vm)))
            .collect();
        for follower in followers {
            follower
                .join()
                .unwrap_or_else(|_| bail!("a follower panicked"))?;
        }
        Ok(())
    })
}

fn follow(vm: &Vm) -> Result<()> {
    let mut seen = 0;
    while vm.age() < vm.wall(READY_DEADLINE) {
        let (records, more) = vm.journal()?.after(seen, Duration::from_millis(500));
        seen += records.len();
        for record in &records {
            if let Some(line) = progress(record) {
                say(&format!("{}: {line}", vm.name()));
            }
            match record.get("MESSAGE_ID") {
                Some(journal::READY) => return Ok(()),
                Some(journal::FAILED | journal::DOCUMENT_REFUSED) => {
                    bail!(
                        "machine `{}`: {}; evidence: {}",
                        vm.name(),
                        record.message(),
                        vm.folder().display()
                    )
                }
                _ => {}
            }
        }
        if INTERRUPTED.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        if !more {
            bail!(
                "machine `{}` switched itself off; the console shows last:\n{}",
                vm.name(),
                vm.console().tail(15)
            );
        }
    }
    bail!(
        "machine `{}` is not ready after {:?}; evidence: {}",
        vm.name(),
        vm.age(),
        vm.folder().display()
    )
}

/// What of the journal is progress to a person.
const PROGRESS: &[&str] = &[
    journal::DOCUMENT_FOUND,
    journal::DOCUMENT_REFUSED,
    journal::DOCUMENT_AWAITED,
    journal::STEP_STARTED,
    journal::STEP_FAILED,
    journal::WAITING,
    journal::READY,
    journal::FAILED,
];

/// An apiserver that is not ready yet answers at length.
const LINE: usize = 100;

fn progress(record: &Record) -> Option<String> {
    let id = record.get("MESSAGE_ID")?;
    PROGRESS.contains(&id).then_some(())?;
    let time = record.since_boot().unwrap_or_default().as_secs_f64();
    let message = record.message();
    // What went wrong is told in full.
    let short: String = if id == journal::WAITING && message.chars().count() > LINE {
        message.chars().take(LINE - 1).chain(['…']).collect()
    } else {
        message.to_string()
    };
    Some(format!("{time:6.1} s  {short}"))
}

/// The administrator's kubeconfig with this host's door as the server; the certificate is still for the domain.
fn kubeconfig_through_door(
    cluster: &Cluster,
    member: &Member,
    output: &Output,
    folder: &Path,
) -> Result<PathBuf> {
    let address = cluster.apiserver(member)?;
    let text = vm_tests::kube::through_door(&fs::read_to_string(output.admin())?, address)?;
    let path = folder.join("admin.conf");
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

fn show_nodes(kubectl: &Path, kubeconfig: &Path, deadline: Duration) -> Result<()> {
    let status = Command::new(kubectl)
        .args([
            "get",
            "nodes",
            "--output=wide",
            &format!("--request-timeout={}s", deadline.as_secs()),
        ])
        .env("KUBECONFIG", kubeconfig)
        .status()
        .with_context(|| format!("starting `{}`", kubectl.display()))?;
    if !status.success() {
        bail!("kubectl: {status}");
    }
    Ok(())
}

fn console(vm: &Vm) -> String {
    vm.folder().join("console.log").display().to_string()
}

fn names(cluster: &Cluster) -> String {
    cluster
        .members
        .iter()
        .map(|member| member.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

/// From here on Ctrl-C switches machines off first.
fn interruptible() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("handling Ctrl-C")
}

fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // A reader who has gone away is no reason to switch machines off.
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}
