//! The journal of the guest, as a live stream of records.
//!
//! Tests match MESSAGE_ID and fields. The text of a message is only part of the evidence.

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

    /// The time since the guest's kernel started, by the guest's clock.
    pub fn since_boot(&self) -> Option<Duration> {
        self.get("__MONOTONIC_TIMESTAMP")?
            .parse()
            .ok()
            .map(Duration::from_micros)
    }

    /// `unit: message`, for error messages.
    pub fn line(&self) -> String {
        let from = self
            .get("_SYSTEMD_UNIT")
            .or_else(|| self.get("SYSLOG_IDENTIFIER"))
            .unwrap_or("?");
        format!("{from}: {}", self.message())
    }
}

/// journald writes a field that is not UTF-8 as an array of bytes, and a repeated field as an array
/// of values.
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

/// Matches records with a message id and with certain values of fields.
#[derive(Debug, Clone)]
pub struct RecordMatch<'a> {
    id: &'a str,
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> RecordMatch<'a> {
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

/// All records so far, and a way to wait for more.
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
    /// Reads records from `stream` until it closes, and writes each line to the file `evidence`.
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

    /// Waits for the first record that matches, past or future.
    pub fn wait_for(&self, wanted: &RecordMatch<'_>, deadline: Duration) -> Result<Record> {
        self.wait_for_unless(wanted, &[], deadline)
    }

    /// Like [`Self::wait_for`]. A record that matches one of `fatal` ends the wait with an error.
    pub fn wait_for_unless(
        &self,
        wanted: &RecordMatch<'_>,
        fatal: &[RecordMatch<'_>],
        deadline: Duration,
    ) -> Result<Record> {
        let end = Instant::now() + deadline;
        let mut seen = 0;
        let mut state = self.lock();
        loop {
            for record in &state.records[seen..] {
                if wanted.matches(record) {
                    return Ok(record.clone());
                }
                if fatal.iter().any(|fatal| fatal.matches(record)) {
                    bail!("waiting for {wanted:?}: fatal record: {}", record.line());
                }
            }
            seen = state.records.len();
            let last = || state.records.last().map_or("none".into(), Record::line);
            if state.closed {
                bail!(
                    "waiting for {wanted:?}: the machine is off; last record: {}",
                    last()
                );
            }
            let Some(rest) = end.checked_duration_since(Instant::now()) else {
                bail!(
                    "waiting for {wanted:?}: not seen within {deadline:?}; last record: {}",
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

    /// All records so far.
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.clone()
    }

    /// The records after the first `count`, and whether more can come. Waits up to `wait` for one.
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
        // Evidence first: a line that does not parse is worth reading.
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
    fn record_matches_by_id_and_all_fields() -> Result<()> {
        let record =
            Record::parse(r#"{"MESSAGE_ID":"0123456789abcdef0123456789abcdef","STEP":"files"}"#)?;
        let id = "01234567-89ab-cdef-0123-456789abcdef";
        assert!(RecordMatch::id(id).field("STEP", "files").matches(&record));
        assert!(
            !RecordMatch::id(id)
                .field("STEP", "hostname")
                .matches(&record)
        );
        assert!(!RecordMatch::id(id).field("OTHER", "files").matches(&record));
        Ok(())
    }

    #[test]
    fn fatal_record_ends_the_wait() -> Result<()> {
        let (ours, guests) = UnixStream::pair()?;
        let folder = tempfile::tempdir()?;
        let journal = Journal::follow(ours, &folder.path().join("journal"))?;
        writeln!(&guests, r#"{{"MESSAGE_ID":"aa","MESSAGE":"broken"}}"#)?;
        let wait = journal.wait_for_unless(
            &RecordMatch::id("bb"),
            &[RecordMatch::id("aa")],
            Duration::from_secs(60),
        );
        assert!(wait.is_err_and(|error| format!("{error:#}").contains("broken")));
        drop(guests);
        let wait = journal.wait_for(&RecordMatch::id("bb"), Duration::from_secs(60));
        assert!(wait.is_err_and(|error| format!("{error:#}").contains("machine is off")));
        Ok(())
    }
}
