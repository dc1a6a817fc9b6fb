//! `imagegen schema`

use anyhow::{Context as _, Result};
use imagegen::topology::Topology;

pub(crate) fn run() -> Result<()> {
    let schema = schemars::schema_for!(Topology);
    let text = serde_json::to_string_pretty(&schema).context("writing the schema")?;
    super::print(&format!("{text}\n"))
}
