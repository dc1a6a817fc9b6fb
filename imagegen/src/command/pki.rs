//! `imagegen pki`

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use imagegen::cli::Common;
use imagegen::pki::status::{self, Entry};
use time::OffsetDateTime;

/// Exit status 1 if a certificate has ended.
pub(crate) fn status(common: &Common, json: bool) -> Result<ExitCode> {
    let folder = super::folder(common, "no output folder; give it with `--output DIR`")?;
    let today = OffsetDateTime::now_utc().date();
    let entries = status::read(&folder.join("pki"), today)?;
    if json {
        let text = serde_json::to_string_pretty(&entries).context("writing the certificates")?;
        super::print(&format!("{text}\n"))?;
    } else {
        super::print(&status::text(&entries))?;
    }
    Ok(if entries.iter().any(Entry::has_ended) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
