//! `imagegen package`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use build_tools::cache::Cache;
use build_tools::progress::Progress;
use clap::CommandFactory as _;
use clap::error::ErrorKind as UsageError;
use imagegen::cli::{Cli, Common, Upstream};
use imagegen::package::Package;

/// Lists the package of `--package`; without it, builds a default package at `--output`.
pub(crate) fn run(common: &Common, kubernetes: Option<&str>) -> Result<()> {
    if let Some(path) = &common.package {
        return list(path);
    }
    let progress = Progress::stderr();
    default_package::write_default(kubernetes, &Cache::open()?, &output(common), &progress)
}

/// `imagegen package --kubernetes 1.34 upstream`: wrong usage, exit status 2.
pub(crate) fn misplaced_release() -> ! {
    let message = "`--kubernetes` before a command is for the package that imagegen builds from \
                   source; write it after `upstream`";
    Cli::command()
        .error(UsageError::ArgumentConflict, message)
        .exit()
}

/// Makes a package of upstream's releases at `--output`.
pub(crate) fn upstream(common: &Common, wanted: &Upstream) -> Result<()> {
    let (output, progress) = (output(common), Progress::stderr());
    default_package::check_output(&output)?;
    let folder = imagegen::upstream::package(wanted, &Cache::open()?, &progress)?;
    default_package::write_output(&folder, &output, &progress)
}

fn output(common: &Common) -> PathBuf {
    let default = || PathBuf::from("kube.tar.zst");
    common.output.clone().unwrap_or_else(default)
}

/// Prints the verdict on a package. Its errors are the verdict's, not this program's: they go to
/// standard output with all else, and the exit status says that there are some.
pub(crate) fn inspect(common: &Common, path: Option<&Path>, json: bool) -> Result<ExitCode> {
    let path = path.or(common.package.as_deref());
    let path = path.context("no package; give one: `imagegen package inspect kube.tar.gz`")?;
    let verdict = Package::read(path)?.verdict();
    if json {
        let text = serde_json::to_string_pretty(&verdict).context("writing the verdict")?;
        super::print(&format!("{text}\n"))?;
    } else {
        super::print(&verdict.text())?;
    }
    Ok(if verdict.errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn list(path: &Path) -> Result<()> {
    let package = Package::open(path)?;
    let mut text = format!(
        "package     {}\nkubernetes  {}\ndigest      {}\nsize        {} MiB\n",
        path.display(),
        package.kubernetes_version()?,
        package.digest(),
        package.size() >> 20
    );
    for name in package.names() {
        writeln!(text, "  {name}")?;
    }
    super::print(&text)
}
