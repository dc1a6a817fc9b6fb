//! `imagegen`: parses the command line and runs one command.

mod command;
mod logger;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use imagegen::cli::{Cli, Command, PackageAction, PkiAction};

fn main() -> ExitCode {
    let cli = Cli::parse();
    logger::install(cli.common.verbose);
    match run(&cli) {
        Ok(code) => code,
        Err(error) => command::fail(&error),
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let common = &cli.common;
    match &cli.command {
        None => command::all::run(common),
        Some(Command::Validate) => command::validate::run(common),
        Some(Command::Plan { json }) => command::plan::run(common, *json),
        Some(Command::Userdata) => command::userdata::run(common),
        Some(Command::Image) => command::image::run(common),
        Some(Command::Flash(args)) => command::flash::run(common, args),
        Some(Command::Iso(args)) => command::iso::run(common, args),
        Some(Command::Serve(args)) => command::serve::run(common, args),
        Some(Command::Package {
            kubernetes: Some(_),
            action: Some(_),
        }) => command::package::misplaced_release(),
        Some(Command::Package { kubernetes, action }) => match action {
            Some(PackageAction::Inspect { path, json }) => {
                return command::package::inspect(common, path.as_deref(), *json);
            }
            Some(PackageAction::Upstream(wanted)) => command::package::upstream(common, wanted),
            None => command::package::run(common, kubernetes.as_deref()),
        },
        Some(Command::Pki { action }) => {
            return match action {
                PkiAction::Status { json } => command::pki::status(common, *json),
                PkiAction::Rotate(args) => {
                    command::pki::rotate(common, args).map(|()| ExitCode::SUCCESS)
                }
            };
        }
        Some(Command::ResetToken { host }) => command::reset_token::run(common, host),
        Some(Command::Schema) => command::schema::run(),
        Some(Command::Completions { shell }) => command::man::completions(*shell),
        Some(Command::Man { dir }) => command::man::run(dir.as_deref()),
    }
    .map(|()| ExitCode::SUCCESS)
}
