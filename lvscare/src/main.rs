//! Entry point: parses flags, sets up the logger, dispatches the sub-command.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use log::{Level, LevelFilter, Metadata, Record};
use lvscare::cli::{Cli, Command, Options};
use lvscare::ipvs::Service;
use lvscare::run_once::{self, Outcome};
use lvscare::status::Status;
use lvscare::status::server;
use lvscare::{apply, daemon};

/// `EX_TEMPFAIL`: try again later.
const NONE_UP: u8 = 75;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = if cli.options.logger.eq_ignore_ascii_case("DEBG") {
        LevelFilter::Debug
    } else {
        LevelFilter::Info
    };
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
    match start(&cli) {
        Ok(code) => code,
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: &Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(cli))
}

async fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let options = &cli.options;
    if let Some(Command::Status { json }) = cli.command {
        return status(options, json).await;
    }
    if !options.ignored().is_empty() {
        log::warn!("{}: deprecated, ignored", options.ignored().join(", "));
    }
    if options.clean {
        let vip = options.service()?;
        run_once::clean(&Service::tcp(vip, &options.scheduler), vip.ip()).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = nix::unistd::gethostname().unwrap_or_default();
    let settings = options.settings(&name.to_string_lossy())?;
    if options.dry_run {
        for line in run_once::dry_run(&settings).await? {
            writeln!(std::io::stdout(), "{line}")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if options.run_once || cli.command == Some(Command::RunOnce) {
        let outcome = run_once::run(&settings, options.wait).await?;
        let failed = outcome == Outcome::NoneUp && options.wait.is_some();
        return Ok(if failed {
            ExitCode::from(NONE_UP)
        } else {
            ExitCode::SUCCESS
        });
    }
    daemon::run(settings).await?;
    Ok(ExitCode::SUCCESS)
}

/// Queries the daemon and falls back to the kernel. An unknown state counts as not set up.
async fn status(options: &Options, json: bool) -> anyhow::Result<ExitCode> {
    let status = match server::fetch(options.status_addr).await {
        Ok(status) => status,
        Err(error) => {
            log::warn!("{error:#}; falling back to the kernel table");
            from_kernel(options).unwrap_or_else(|error| Status {
                error: Some(format!("{error:#}")),
                ..Status::default()
            })
        }
    };
    let text = if json {
        format!("{}\n", serde_json::to_string(&status)?)
    } else {
        status.text()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::from(status.grade() as u8))
}

fn from_kernel(options: &Options) -> anyhow::Result<Status> {
    let service = options.service()?;
    let ours = Service::tcp(service, &options.scheduler);
    let actual = apply::Table::default()
        .read(&ours)
        .context("reading the IPVS table")?;
    Ok(Status::from_table(service, &actual))
}

/// One line per record, without a timestamp: journald and the kubelet add their own.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // Debug and info records of libraries are noise.
        if record.level() > Level::Warn && !record.target().starts_with("lvscare") {
            return;
        }
        let level = match record.level() {
            Level::Error => "ERROR",
            Level::Warn => "WARN",
            Level::Info => "INFO",
            Level::Debug | Level::Trace => "DEBUG",
        };
        // One write, so that lines of other programs do not interleave.
        let line = format!("lvscare: {level} {}\n", record.args());
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}
