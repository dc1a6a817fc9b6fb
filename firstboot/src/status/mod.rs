//! The status of this machine as data: the status file, and what other hosts read over the network.
//!
//! Written by [`report`](crate::report). Read by [`text`], which prints it here, by [`server`],
//! which serves it, and by [`cluster`], which requests it from every host and prints a [`table`].

pub mod cluster;
pub mod host;
mod listener;
pub mod server;
pub mod table;
pub mod text;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use userdata::contract::STATUS_FILE;
use userdata::node_config::Role;

use crate::system::files::Root;
use crate::trust::record::{Record, Signer};

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
    /// The document that the machine obeys.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub document: Option<DocumentStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    pub step_number: usize,
    pub step_count: usize,
    /// Whether this host is, or was, in the control plane of its cluster: the first master asks the
    /// others before it initialises one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_control_plane: bool,
    /// What firstboot waits for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Why firstboot failed, why no source has a document, which documents it refused, or what does
    /// not work although all steps are done.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub reasons: Vec<String>,
    /// How this machine booted, if not from its own disk.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
    /// The fingerprints of the SSH server's keys, `256 SHA256:… (ED25519)`, once the machine is
    /// ready.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub ssh_host_keys: Vec<String>,
    /// Start of firstboot, in seconds since 1970 by this machine's clock.
    pub since: u64,
    /// Each source in the order of asking, and what it had.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub sources: Vec<Decision>,
}

/// Why a source was taken or passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub source: String,
    /// `found`, `nothing` or `broken`.
    pub result: String,
    pub reason: String,
}

/// `/run/firstlight/result.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome<'a> {
    /// `applied`, `degraded`, `failed`, `no-document` or `working`.
    pub result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'a str>,
    pub sources: &'a [Decision],
    /// Why it is not `applied`.
    pub reasons: &'a [String],
}

impl Status {
    /// The outcome as it is now.
    pub fn outcome(&self) -> Outcome<'_> {
        let result = match self.phase {
            Phase::Ready if self.reasons.is_empty() => "applied",
            Phase::Ready => "degraded",
            Phase::Failed => "failed",
            Phase::NoDocument => "no-document",
            Phase::Starting | Phase::Working => "working",
        };
        Outcome {
            result,
            source: self.source.as_deref(),
            sources: &self.sources,
            reasons: &self.reasons,
        }
    }
}

/// The document that is kept in the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentStatus {
    /// SHA-256 over all its files.
    pub digest: String,
    /// Both only with a signature.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub generation: Option<u64>,
    /// The key, `sha256:` and 12 digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signer: Option<String>,
    /// What became of the secrets in the seed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secrets: Option<String>,
}

impl DocumentStatus {
    pub fn of(record: &Record) -> Self {
        let signer = record.signer.as_ref();
        Self {
            digest: record.digest.clone(),
            generation: signer.map(|signer| signer.generation),
            signer: signer.map(Signer::name),
            secrets: record.secrets.clone(),
        }
    }
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
    /// As written in JSON.
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

/// A wait for something outside firstboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Host and endpoint.
    pub endpoint: String,
    /// Its last answer.
    pub answer: String,
    /// Number of tries.
    pub tries: u64,
    /// Seconds since 1970 by this machine's clock.
    pub since: u64,
    /// The same in seconds since power-on. Ages are computed from it, because clocks are set while
    /// machines wait, and those of two machines may be years apart.
    pub since_uptime: u64,
}

/// Start and number of tries of one wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    pub(crate) since: u64,
    pub(crate) since_uptime: u64,
    pub(crate) tries: u64,
}

impl Wait {
    /// A wait that starts now, with the first try.
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

    /// Counts the next try.
    pub fn count_try(&mut self) {
        self.tries += 1;
    }
}

/// The status as one machine sends it to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Seconds since power-on, when the report was made.
    pub uptime: u64,
    pub status: Status,
}

impl StatusReport {
    /// The report of this machine now; `None` before firstboot has run in this boot.
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
    role.map_or("no role", Role::as_str)
}

pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Seconds since power-on, including time in suspend.
fn uptime() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| now.tv_sec().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phase_word_is_its_json() {
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
