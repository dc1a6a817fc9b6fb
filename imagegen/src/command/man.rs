//! `imagegen man` and `imagegen completions`

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;
use imagegen::cli::Cli;

pub(crate) fn run(dir: Option<&Path>) -> Result<()> {
    if let Some(dir) = dir {
        return clap_mangen::generate_to(Cli::command(), dir)
            .with_context(|| format!("writing manual pages into `{}`", dir.display()));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut page)
        .context("writing the manual page")?;
    super::print(&String::from_utf8_lossy(&page))
}

pub(crate) fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "imagegen", &mut script);
    super::print(&String::from_utf8_lossy(&script))
}
