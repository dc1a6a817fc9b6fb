//! The recording of a cluster's formation: the disks before it, all their writes, and when each
//! machine reported a step.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use firstboot::journal::{DOCUMENT_FOUND, READY, STEP_DONE, STEP_STARTED, field};
use serde::{Deserialize, Serialize};

use super::log::Log;
use crate::machine::journal::{Journal, Record};
use crate::machine::vm::Vm;

/// How often the recorder looks. A step that is shorter is seen with its end.
const TICK: Duration = Duration::from_millis(10);

const FILE: &str = "recording.json";

/// One formation, as the folder of a recording keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recording {
    pub topology: String,
    pub machines: Vec<Recorded>,
    /// The lengths of all logs of the first boot at the same moments, in the order of the machines.
    pub moments: Vec<Vec<u64>>,
    #[serde(skip)]
    folder: PathBuf,
}

/// One machine of a recording.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    pub name: String,
    pub role: String,
    /// How many times it booted; each boot has a log.
    pub boots: usize,
    pub marks: Vec<Mark>,
}

/// A record of firstboot, and how long the log of the disk was when the harness had received it:
/// what firstboot had done before is in that part of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub boot: usize,
    pub bytes: u64,
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    DocumentFound,
    Started(String),
    Done(String),
    Ready,
}

impl Recording {
    pub fn new(folder: &Path, topology: &str, machines: Vec<Recorded>) -> Self {
        Self {
            topology: topology.to_owned(),
            machines,
            moments: Vec::new(),
            folder: folder.to_owned(),
        }
    }

    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = fs::read(&path).with_context(|| format!("reading `{}`", path.display()))?;
        let recording: Self = serde_json::from_slice(&text)
            .with_context(|| format!("reading `{}`", path.display()))?;
        Ok(Self {
            folder: folder.to_owned(),
            ..recording
        })
    }

    pub fn save(&self) -> Result<()> {
        let path = self.folder.join(FILE);
        fs::write(&path, serde_json::to_vec(self)?)
            .with_context(|| format!("writing `{}`", path.display()))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The disk of a machine before its first boot.
    pub fn base(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.raw"))
    }

    /// The file with the writes of one boot.
    pub fn log_path(&self, name: &str, boot: usize) -> PathBuf {
        self.folder.join(format!("{name}.{boot}.log"))
    }

    pub fn log(&self, machine: &Recorded) -> Result<Log> {
        let boots = 0..machine.boots;
        let paths: Vec<_> = boots
            .map(|boot| self.log_path(&machine.name, boot))
            .collect();
        Log::open(&paths)
    }
}

/// Follows machines until [`Recorder::end`].
#[derive(Debug)]
pub struct Recorder {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Heard>>,
}

/// What a recorder has heard: the marks of each machine, and the lengths of the logs.
#[derive(Debug, Default)]
pub struct Heard {
    pub marks: Vec<Vec<Mark>>,
    pub moments: Vec<Vec<u64>>,
}

impl Recorder {
    /// Follows the journals of `machines`, whose disks are logged in the files `logs`.
    pub fn start(boot: usize, machines: &[&Vm], logs: Vec<PathBuf>) -> Result<Self> {
        let journals = machines.iter().map(|vm| vm.journal().cloned());
        let journals = journals.collect::<Result<Vec<_>>>()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = is_over.clone();
        let thread = thread::Builder::new()
            .name("recorder".into())
            .spawn(move || follow(boot, &journals, &logs, &stop))?;
        Ok(Self { is_over, thread })
    }

    pub fn end(self) -> Result<Heard> {
        self.is_over.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(heard) => heard,
            Err(_) => anyhow::bail!("the recorder panicked"),
        }
    }
}

fn follow(
    boot: usize,
    journals: &[Journal],
    logs: &[PathBuf],
    is_over: &AtomicBool,
) -> Result<Heard> {
    let mut heard = Heard {
        marks: vec![Vec::new(); journals.len()],
        moments: Vec::new(),
    };
    let mut seen = vec![0; journals.len()];
    loop {
        let begin = Instant::now();
        let last = is_over.load(Ordering::Relaxed);
        // The journals before the logs: what a record reports is in the log's length then.
        let mut events = Vec::new();
        for (journal, seen) in journals.iter().zip(&mut seen) {
            let (records, _) = journal.after(*seen, Duration::ZERO);
            *seen += records.len();
            events.push(records.iter().filter_map(event).collect::<Vec<_>>());
        }
        let lengths = logs.iter().map(|path| Ok(fs::metadata(path)?.len()));
        let lengths = lengths.collect::<Result<Vec<u64>>>()?;
        for (at, events) in events.into_iter().enumerate() {
            heard.marks[at].extend(events.into_iter().map(|event| Mark {
                boot,
                bytes: lengths[at],
                event,
            }));
        }
        if heard.moments.last() != Some(&lengths) {
            heard.moments.push(lengths);
        }
        if last {
            return Ok(heard);
        }
        thread::sleep(TICK.saturating_sub(begin.elapsed()));
    }
}

fn event(record: &Record) -> Option<Event> {
    let step = || record.get(field::STEP).map(str::to_owned);
    match record.get("MESSAGE_ID")? {
        DOCUMENT_FOUND => Some(Event::DocumentFound),
        STEP_STARTED => step().map(Event::Started),
        STEP_DONE => step().map(Event::Done),
        READY => Some(Event::Ready),
        _ => None,
    }
}
