//! `imagegen pki`

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use imagegen::cli::{Common, Rotate};
use imagegen::output::Folder;
use imagegen::pipeline::{self, Step};
use imagegen::pki::rotation::Rotation;
use imagegen::pki::status::{self, Entry};
use time::OffsetDateTime;

/// What is wrong where `--next` comes without a proof.
const NO_EVIDENCE: &str = "a host without its document of this phase leaves the cluster in the next \
    one; give `--status FILE` with the output of `firstboot status --all --json` on a master, or \
    `--unchecked`";

/// Exit status 1 if a certificate has ended.
pub(crate) fn status(common: &Common, json: bool) -> Result<ExitCode> {
    let folder = super::folder(common, "no output folder; give it with `--output DIR`")?;
    let today = OffsetDateTime::now_utc().date();
    let entries = status::read(&folder.join("pki"), today)?;
    if json {
        let text = serde_json::to_string_pretty(&entries).context("writing the certificates")?;
        super::print(&format!("{text}\n"))?;
    } else {
        let rotation = Rotation::read(&folder.join("pki"))?;
        let rotation = rotation.summary().map(|text| text + "\n");
        let text = status::text(&entries) + &rotation.unwrap_or_default();
        super::print(&text)?;
    }
    Ok(if entries.iter().any(Entry::has_ended) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Shows the rotation, or takes one step of it.
pub(crate) fn rotate(common: &Common, args: &Rotate) -> Result<()> {
    let request = super::request(common);
    let input = super::read(&request)?;
    let folder = pipeline::output(&request, &input.plan);
    let step = if args.next {
        if args.status.is_none() && !args.unchecked {
            super::wrong_usage(NO_EVIDENCE);
        }
        let statuses = args.status.as_deref().map(statuses).transpose()?;
        Step::Next { statuses }
    } else if args.start || !args.expel.is_empty() {
        Step::Begin {
            expel: args.expel.clone(),
        }
    } else {
        return super::print(&pipeline::rotation(&input, &folder)?);
    };
    pipeline::rotate(&input, &Folder::open(&folder)?, step)?;
    super::print(&pipeline::rotation(&input, &folder)?)
}

/// The text of a file, or of standard input for `-`.
fn statuses(path: &Path) -> Result<String> {
    let doing = || {
        format!(
            "reading the statuses of the hosts from `{}`",
            path.display()
        )
    };
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .with_context(doing)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(doing)
}
