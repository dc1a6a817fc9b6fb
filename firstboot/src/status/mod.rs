//! What a machine says of itself, as data: the status file, and what is told to other hosts.
//!
//! Written by [`report`](crate::report); read by [`words`], which prints it here, by [`serve`], which tells it to who asks
//! over the network, and by [`all`], which asks every host.

pub mod all;
pub mod serve;
pub mod table;
pub mod words;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use userdata::contract::STATUS_FILE;
use userdata::node_config::Role;

use crate::system::files::Root;

/// `/run/firstlight/status.json`, and what `firstboot status --json` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub phase: Phase,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    pub step_number: usize,
    pub step_count: usize,
    /// What is waited for, when something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Why it failed, or why no source has a document.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub reasons: Vec<String>,
    /// When firstboot started: seconds since 1970 by this machine's clock.
    pub since: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    #[default]
    Starting,
    NoDocument,
    Working,
    Ready,
    Failed,
}

impl Phase {
    /// As it stands in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::NoDocument => "no-document",
            Phase::Working => "working",
            Phase::Ready => "ready",
            Phase::Failed => "failed",
        }
    }
}

/// Something outside firstboot that has to answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Host and endpoint.
    pub endpoint: String,
    /// What it said last.
    pub answer: String,
    /// How many times it was asked.
    pub tries: u64,
    /// Seconds since 1970 by this machine's clock.
    pub since: u64,
    /// The same in seconds since power-on: what ages are counted by, because clocks are set while machines wait, and
    /// those of two machines may be years apart.
    pub since_uptime: u64,
}

/// One wait for something outside: since when, and how many times it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    pub(crate) since: u64,
    pub(crate) since_uptime: u64,
    pub(crate) tries: u64,
}

impl Wait {
    /// Begins now, with the first try.
    pub fn begin() -> Self {
        Self {
            since: now(),
            since_uptime: uptime(),
            tries: 1,
        }
    }

    /// Seconds.
    pub fn age(&self) -> u64 {
        uptime().saturating_sub(self.since_uptime)
    }

    /// The next try follows.
    pub fn again(&mut self) {
        self.tries += 1;
    }
}

/// A status as one machine tells it to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Seconds since power-on, when it was told.
    pub uptime: u64,
    pub status: Status,
}

impl Told {
    /// What this machine would tell now; `None` before firstboot has run since it was switched on.
    pub fn read(root: &Root) -> Result<Option<Self>> {
        let Some(bytes) = root.read(STATUS_FILE)? else {
            return Ok(None);
        };
        let status =
            serde_json::from_slice(&bytes).with_context(|| format!("reading `{STATUS_FILE}`"))?;
        let uptime = uptime();
        Ok(Some(Self { uptime, status }))
    }
}

pub(crate) fn role_name(role: Option<Role>) -> &'static str {
    match role {
        Some(Role::Master0) => "master0",
        Some(Role::Master) => "master",
        Some(Role::Node) => "node",
        None => "no role",
    }
}

pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Seconds since power-on, time asleep included.
fn uptime() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| now.tv_sec().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_has_one_word_everywhere() {
        for phase in [
            Phase::Starting,
            Phase::NoDocument,
            Phase::Working,
            Phase::Ready,
            Phase::Failed,
        ] {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.word());
        }
    }
}
