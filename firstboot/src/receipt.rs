//! What firstboot did to this host and when, for people.
//!
//! No decision reads it, so firstboot replaces a lost or unreadable one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use userdata::contract::RECEIPT_FILE;

use crate::system::files::Root;

#[derive(Debug)]
pub struct Receipt {
    root: Root,
    source: String,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub step: String,
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Where the document came from in that run.
    pub source: String,
    /// Seconds since 1970 by this machine's clock, which may have been wrong.
    pub at: u64,
    pub took_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "reason", rename_all = "lowercase")]
pub enum Outcome {
    Done,
    Failed(String),
}

#[derive(Default, Serialize, Deserialize)]
struct OnDisk {
    steps: Vec<Entry>,
}

impl Receipt {
    /// Continues the receipt below `root`, if there is one.
    pub fn open(root: &Root, source: &str) -> Self {
        if let Err(error) = root.clean_up(RECEIPT_FILE) {
            log::warn!("{error:#}; continuing with it");
        }
        let entries = match root.read(RECEIPT_FILE) {
            Ok(Some(bytes)) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                log::warn!("reading `{RECEIPT_FILE}`: {error}, starting a new one");
                OnDisk::default()
            }),
            _ => OnDisk::default(),
        };
        Self {
            root: root.clone(),
            source: source.to_owned(),
            entries: entries.steps,
        }
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Adds one line and replaces the file.
    pub(crate) fn record(&mut self, step: &str, outcome: Outcome, took: Duration) -> Result<()> {
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.entries.push(Entry {
            step: step.to_owned(),
            outcome,
            source: self.source.clone(),
            at,
            took_ms,
        });
        let mut bytes = serde_json::to_vec_pretty(&OnDisk {
            steps: self.entries.clone(),
        })
        .context("writing the receipt")?;
        bytes.push(b'\n');
        self.root.write_volatile(RECEIPT_FILE, &bytes)
    }
}
