//! YAML and JSON as one tree of values.
//!
//! The only place that uses the YAML library.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::de::DeserializeOwned;

/// Size limit of a file.
const LONGEST: u64 = 1024 * 1024;

/// Reads `path`. The error has path, line and column.
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
    // One instance of the YAML reader for all types, because it is large.
    let value: serde_json::Value = serde_yaml::from_slice(text)?;
    Ok(serde_json::from_value(value)?)
}
