//! YAML, and with it JSON, as one tree of values.
//!
//! The one place that touches the YAML library; what a value means is its reader's business.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::de::DeserializeOwned;

/// Longer files are none of ours.
const LONGEST: u64 = 1024 * 1024;

/// Reads `path`. The error names it, and line and column where the text is at fault.
pub fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let reading = || format!("reading `{}`", path.display());
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST + 1).read_to_end(&mut text))
        .with_context(reading)?;
    ensure!(
        text.len() as u64 <= LONGEST,
        "`{}` is longer than {LONGEST} bytes",
        path.display()
    );
    parse(&text).with_context(reading)
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> anyhow::Result<T> {
    // One instance of the YAML reader for all types: it is the larger of the two by far.
    let value: serde_json::Value = serde_yaml::from_slice(text)?;
    Ok(serde_json::from_value(value)?)
}
