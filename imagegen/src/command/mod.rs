//! The commands: each reads its input, calls the library and prints the result.

pub(crate) mod all;
pub(crate) mod flash;
pub(crate) mod image;
pub(crate) mod iso;
pub(crate) mod man;
pub(crate) mod package;
pub(crate) mod pki;
pub(crate) mod plan;
pub(crate) mod reset_token;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod userdata;
pub(crate) mod validate;

use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Error, Result};
use clap::CommandFactory as _;
use clap::error::ErrorKind as UsageError;
use imagegen::cli::{Cli, Common};
use imagegen::pipeline::{self, Input, Outcome, Refused, Request};
use yaml::Severity;

/// A command without a topology is wrong usage: exit status 2.
fn request(common: &Common) -> Request {
    let Some(topology) = common.topology.clone() else {
        wrong_usage("no topology; give one with `--topology cluster.yaml`");
    };
    Request {
        topology,
        package: common.package.clone(),
        output: common.output.clone(),
    }
}

/// Exits with status 2.
fn wrong_usage(message: &str) -> ! {
    Cli::command()
        .error(UsageError::MissingRequiredArgument, message)
        .exit()
}

/// What is wrong where a command needs the folder of an image.
const NO_IMAGE: &str = "no output folder; give the one with the node image with `--output DIR`";

/// `--output`, else the default folder of the topology's cluster. Without either, `message` is what
/// was wrong.
fn folder(common: &Common, message: &str) -> Result<PathBuf> {
    if let Some(output) = &common.output {
        return Ok(output.clone());
    }
    if common.topology.is_none() {
        wrong_usage(message);
    }
    let request = request(common);
    let plan = read(&request)?.plan;
    Ok(pipeline::output(&request, &plan))
}

/// Reads the topology and prints its warnings.
fn read(request: &Request) -> Result<Input> {
    pipeline::read(request).map(print_warnings)
}

fn print_warnings(input: Input) -> Input {
    for warning in &input.warnings {
        eprintln!("{warning}\n");
    }
    input
}

/// imagegen as it was called.
fn program() -> String {
    let name = std::env::args_os().next().unwrap_or_default();
    name.into_string().unwrap_or_else(|_| "imagegen".to_owned())
}

fn report(outcome: &Outcome, what: &str) {
    let (folder, hosts) = (outcome.folder.display(), outcome.hosts);
    if outcome.changed {
        println!("`{folder}`: made {what} ({hosts} hosts)");
    } else {
        println!("`{folder}`: {what} up to date, nothing to do ({hosts} hosts)");
    }
}

/// Prints a whole text. A closed pipe (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(()),
    }
}

/// Prints an error and returns its exit status: 3 for an invalid topology, else 1.
pub(crate) fn fail(error: &Error) -> ExitCode {
    let Some(refused) = error.downcast_ref::<Refused>() else {
        eprintln!("imagegen: {error:#}");
        return ExitCode::FAILURE;
    };
    let findings = refused.0.0.iter();
    let errors = findings.filter(|found| found.severity == Severity::Error);
    let count = errors.count();
    eprintln!("{refused}\n\nimagegen: the topology has {count} error(s); nothing was written");
    ExitCode::from(3)
}
