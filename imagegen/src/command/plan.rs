//! `imagegen plan`

use anyhow::{Context as _, Result};
use imagegen::cli::Common;
use imagegen::{display, pipeline};

pub(crate) fn run(common: &Common, json: bool) -> Result<()> {
    let request = super::request(common);
    let input = super::read(&request)?;
    let changes = input.agree()?;
    let plan = input.plan;
    let package = pipeline::package(&request, &plan);
    let output = pipeline::output(&request, &plan);
    if !json {
        return super::print(&display::text(&plan, package.as_deref(), &output, &changes));
    }
    let value = display::json(&plan, package.as_deref(), &output, &changes);
    let text = serde_json::to_string_pretty(&value).context("writing the plan")?;
    super::print(&format!("{text}\n"))
}
