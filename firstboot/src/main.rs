//! The command line, the logger and the exit status.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use firstboot::boot::{self, Refused};
use firstboot::cli::{Cli, Command};
use firstboot::explain;
use firstboot::install;
use firstboot::live;
use firstboot::logger;
use firstboot::report::Reporter;
use firstboot::sealed;
use firstboot::source::directory::Directory;
use firstboot::source::{Source, machine_sources};
use firstboot::state_partition;
use firstboot::status::{cluster, server, text};
use firstboot::step::resolv_conf;
use firstboot::system::files::Root;
use firstboot::system::usage;
use firstboot::trust;
use firstboot::trust::passphrase;
use firstboot::trust::record::Record;

/// The document is invalid: a restart does not help. `firstboot.service` names this status too.
const REFUSED: u8 = 3;

fn main() -> ExitCode {
    usage::begin();
    let cli = Cli::parse();
    let root = Root::new(&cli.root);
    match cli.command {
        Some(Command::Status {
            json, all: false, ..
        }) => return exit(text::print(&root, json), None),
        Some(Command::Status { json, timeout, .. }) => {
            let ready = cluster::print(&root, json, Duration::from_secs(timeout));
            return match ready {
                Ok(false) => ExitCode::FAILURE,
                ready => exit(ready.map(drop), None),
            };
        }
        Some(Command::Install { to, yes }) => return exit(install::run(&root, &to, yes), None),
        Some(Command::ServeStatus) => {
            logger::install();
            return exit(server::run(&root), None);
        }
        Some(Command::Reset) => return exit(reset(&root), None),
        Some(Command::ResolvConf) => return exit(resolv_conf::update(&root), None),
        Some(Command::CheckBootDisk) => return exit(state_partition::check_boot_disk(&root), None),
        Some(Command::MakeState) => return exit(sealed::make::make(&root), None),
        Some(Command::LinkState) => return exit(state_partition::link(&root), None),
        Some(Command::AttachRoot) => return exit(live::root::attach(&root), None),
        Some(Command::PrepareState) => return exit(live::state::prepare(&root), None),
        Some(Command::Explain) => {
            explain::print(&root);
            return ExitCode::SUCCESS;
        }
        None => {}
    }
    logger::install();
    let sources: Vec<Box<dyn Source>> = match &cli.seed {
        Some(folder) => vec![Box::new(Directory(folder.clone()))],
        None => machine_sources(),
    };
    if cli.plan {
        return exit(print_plan(&root, &sources, cli.seed.is_some()), None);
    }
    let mut report = Reporter::new(&root);
    let result = boot::run(&root, &sources, cli.seed.is_some(), &mut report);
    exit(result, Some(&mut report))
}

fn reset(root: &Root) -> Result<()> {
    let told = trust::reset(root)?;
    writeln!(std::io::stdout(), "{told}").context("printing what is forgotten")
}

/// The kept document's, unless `--seed` names another.
fn print_plan(root: &Root, sources: &[Box<dyn Source>], is_given: bool) -> Result<()> {
    let kept = match is_given {
        true => None,
        false => Record::open(root)?,
    };
    let seed = match kept {
        Some(kept) => kept.seed(),
        None => {
            let (_, seed) = boot::look_once(root, sources, &mut Reporter::silent(root))?;
            passphrase::open_quietly(root, &seed)?.seed
        }
    };
    let (_, steps) = boot::prepare(&seed, root)?;
    let mut out = std::io::stdout().lock();
    for (number, step) in (1..).zip(&steps) {
        writeln!(out, "{number:2}. {:16} {step}", step.name()).context("printing the plan")?;
    }
    Ok(())
}

fn exit(result: Result<()>, report: Option<&mut Reporter>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    match report {
        Some(report) => report.failed(&error),
        None => {
            let _ = writeln!(std::io::stderr(), "firstboot: {error:#}");
        }
    }
    if error.is::<Refused>() {
        REFUSED.into()
    } else {
        ExitCode::FAILURE
    }
}
