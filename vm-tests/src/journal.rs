//! The guest's journal as records, live.
//!
//! Facts are found by MESSAGE_ID and fields; prose is for the evidence only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// One journal entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record(BTreeMap<String, String>);

impl Record {
    /// Reads one line of `journalctl --output=json`.
    pub fn parse(line: &str) -> Result<Self> {
        let Value::Object(fields) = serde_json::from_str(line)? else {
            bail!("not an object")
        };
        Ok(Self(
            fields
                .into_iter()
                .map(|(name, value)| (name, text(&value)))
                .collect(),
        ))
    }

    pub fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }

    pub fn message(&self) -> &str {
        self.get("MESSAGE").unwrap_or_default()
    }

    /// Since the guest's kernel started, by the guest's clock.
    pub fn since_boot(&self) -> Option<Duration> {
        self.get("__MONOTONIC_TIMESTAMP")?
            .parse()
            .ok()
            .map(Duration::from_micros)
    }

    /// `unit: message`, for people.
    pub fn line(&self) -> String {
        let from = self
            .get("_SYSTEMD_UNIT")
            .or_else(|| self.get("SYSLOG_IDENTIFIER"))
            .unwrap_or("?");
        format!("{from}: {}", self.message())
    }
}

/// journald writes what is not UTF-8 as an array of bytes and a repeated field as an array of values.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_u64) => {
            let bytes: Vec<u8> = items
                .iter()
                .filter_map(|item| item.as_u64()?.try_into().ok())
                .collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        Value::Array(items) => items.first().map(text).unwrap_or_default(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Which record: a message id, and fields that must have these values.
#[derive(Debug, Clone)]
pub struct Want<'a> {
    id: &'a str,
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Want<'a> {
    /// A message id, with or without dashes.
    pub fn id(id: &'a str) -> Self {
        Self {
            id,
            fields: Vec::new(),
        }
    }

    pub fn field(mut self, name: &'a str, value: &'a str) -> Self {
        self.fields.push((name, value));
        self
    }

    pub fn matches(&self, record: &Record) -> bool {
        let same_id = record
            .get("MESSAGE_ID")
            .is_some_and(|id| same_id(id, self.id));
        same_id
            && self
                .fields
                .iter()
                .all(|(name, value)| record.get(name) == Some(value))
    }
}

fn same_id(left: &str, right: &str) -> bool {
    let plain = |id: &str| id.replace('-', "").to_ascii_lowercase();
    plain(left) == plain(right)
}

/// Everything the guest has said so far, and a way to wait for more.
#[derive(Debug, Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    closed: bool,
}

impl Journal {
    /// Reads records from `stream` until it closes; each line is also appended to the file `evidence`.
    pub fn follow(stream: UnixStream, evidence: &Path) -> Result<Self> {
        let file =
            File::create(evidence).with_context(|| format!("creating `{}`", evidence.display()))?;
        let journal = Self {
            shared: Arc::default(),
        };
        let shared = journal.shared.clone();
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || read_all(stream, file, &shared))?;
        Ok(journal)
    }

    /// The first record that is wanted, past or future.
    pub fn wait_for(&self, want: &Want<'_>, deadline: Duration) -> Result<Record> {
        self.wait_for_or(want, &[], deadline)
    }

    /// As `wait_for`, but one of `never` ends the wait at once with its message.
    pub fn wait_for_or(
        &self,
        want: &Want<'_>,
        never: &[Want<'_>],
        deadline: Duration,
    ) -> Result<Record> {
        let end = Instant::now() + deadline;
        let mut seen = 0;
        let mut state = self.lock();
        loop {
            for record in &state.records[seen..] {
                if want.matches(record) {
                    return Ok(record.clone());
                }
                if never.iter().any(|never| never.matches(record)) {
                    bail!("waiting for {want:?}: the machine said: {}", record.line());
                }
            }
            seen = state.records.len();
            let last = || {
                state
                    .records
                    .last()
                    .map_or("nothing at all".into(), Record::line)
            };
            if state.closed {
                bail!(
                    "waiting for {want:?}: the machine is off; it last said: {}",
                    last()
                );
            }
            let Some(rest) = end.checked_duration_since(Instant::now()) else {
                bail!(
                    "waiting for {want:?}: not within {deadline:?}; the machine last said: {}",
                    last()
                );
            };
            state = self
                .shared
                .changed
                .wait_timeout(state, rest)
                .unwrap_or_else(|bad| bad.into_inner())
                .0;
        }
    }

    /// All records until now.
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.clone()
    }

    /// Records after the first `count`, and whether more may come: for those who print as they go.
    pub fn after(&self, count: usize, wait: Duration) -> (Vec<Record>, bool) {
        let state = self.lock();
        let state = self
            .shared
            .changed
            .wait_timeout_while(state, wait, |state| {
                state.records.len() <= count && !state.closed
            })
            .unwrap_or_else(|bad| bad.into_inner())
            .0;
        (
            state.records.get(count..).unwrap_or_default().to_vec(),
            !state.closed,
        )
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(|bad| bad.into_inner())
    }
}

fn read_all(stream: UnixStream, mut evidence: File, shared: &Shared) {
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        // Evidence first: a line that we cannot read is the one somebody will want to see.
        let _ = evidence
            .write_all(&line)
            .and_then(|()| evidence.write_all(b"\n"));
        if let Ok(record) = Record::parse(&String::from_utf8_lossy(&line)) {
            shared
                .state
                .lock()
                .unwrap_or_else(|bad| bad.into_inner())
                .records
                .push(record);
            shared.changed.notify_all();
        }
    }
    shared
        .state
        .lock()
        .unwrap_or_else(|bad| bad.into_inner())
        .closed = true;
    shared.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_and_repeated_fields_become_text() -> Result<()> {
        let record =
            Record::parse(r#"{"MESSAGE":[111,107,255],"UNIT":["a","b"],"N":3,"LONG":null}"#)?;
        assert_eq!(record.message(), "ok\u{fffd}");
        assert_eq!(
            (record.get("UNIT"), record.get("N"), record.get("LONG")),
            (Some("a"), Some("3"), Some(""))
        );
        Ok(())
    }

    #[test]
    fn a_wanted_record_is_found_by_id_and_every_field() -> Result<()> {
        let record =
            Record::parse(r#"{"MESSAGE_ID":"0123456789abcdef0123456789abcdef","STEP":"files"}"#)?;
        let id = "01234567-89ab-cdef-0123-456789abcdef";
        assert!(Want::id(id).field("STEP", "files").matches(&record));
        assert!(!Want::id(id).field("STEP", "hostname").matches(&record));
        assert!(!Want::id(id).field("OTHER", "files").matches(&record));
        Ok(())
    }

    #[test]
    fn a_forbidden_record_ends_the_wait() -> Result<()> {
        let (ours, guests) = UnixStream::pair()?;
        let folder = tempfile::tempdir()?;
        let journal = Journal::follow(ours, &folder.path().join("journal"))?;
        writeln!(&guests, r#"{{"MESSAGE_ID":"aa","MESSAGE":"broken"}}"#)?;
        let wait = journal.wait_for_or(&Want::id("bb"), &[Want::id("aa")], Duration::from_secs(60));
        assert!(wait.is_err_and(|error| format!("{error:#}").contains("broken")));
        drop(guests);
        let wait = journal.wait_for(&Want::id("bb"), Duration::from_secs(60));
        assert!(wait.is_err_and(|error| format!("{error:#}").contains("machine is off")));
        Ok(())
    }
}
