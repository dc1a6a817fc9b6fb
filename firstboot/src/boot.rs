//! One boot: find the document, parse it, list the steps, run them.

use std::time::{Duration, Instant};

use anyhow::{Error, Result, ensure};
use userdata::contract::IMAGE_FILE;
use userdata::image_info::ImpossibleKeys;

use crate::host::{self, Host};
use crate::live;
use crate::plan;
use crate::receipt::Receipt;
use crate::report::Reporter;
use crate::runner;
use crate::source::http::Unreachable;
use crate::source::{self, Seed, Source, WrongMachine, directory};
use crate::status::DocumentStatus;
use crate::step::mounts::Mounts;
use crate::step::{Step, hostname, hosts};
use crate::system::disks;
use crate::system::files::Root;
use crate::system::machine::Identity;
use crate::system::uevent::{self, DeviceEvents};
use crate::trust;
use crate::trust::passphrase::{self, Opened, Unasked};
use crate::trust::record::{Phase, Record};
use crate::trust::scrub;

/// How long to wait for udev before the sources are asked. Too early, and the image's seed
/// partition wins over a disk that appears later, or this machine has no MAC yet and rejects its
/// own document. Shorter than the time that udev gives a stuck driver (180 s, udev.conf(5)).
const SETTLE: Duration = Duration::from_secs(120);

/// How long to wait for late network cards before rejecting a document for another machine: udev's
/// queue can be empty between two drivers.
const CARDS: Duration = Duration::from_secs(60);

/// The state partition.
const VAR: &str = "/var";

/// The document is invalid. A restart does not help; nothing was written.
#[derive(Debug)]
pub struct Refused(Error);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}; nothing was changed", self.0)
    }
}

impl std::error::Error for Refused {}

/// The document of this boot, checked completely.
struct Taken {
    source: String,
    seed: Seed,
    host: Host,
    steps: Vec<Box<dyn Step>>,
    /// `None` for a folder that a person names: root's word needs no record.
    record: Option<Record>,
    /// Seeds with the same document, which may hold its secrets.
    copies: Vec<Seed>,
    refused: Vec<(String, String)>,
}

/// Applies the document to this machine, or to the tree below `root`. With `is_given`, `sources`
/// are a person's choice; without, what this machine has found and obeyed before decides, and a
/// machine without a document waits for one.
pub fn run(
    root: &Root,
    sources: &[Box<dyn Source>],
    is_given: bool,
    report: &mut Reporter,
) -> Result<()> {
    if let Some(record) = live::Record::read(root)? {
        report.note(record.note());
    }
    let taken = if is_given {
        given(root, sources, report)
    } else {
        take(root, sources, report)
    }?;
    let Taken {
        source,
        seed,
        host,
        steps,
        mut record,
        copies,
        refused,
    } = taken;
    live::check_role(root, host.node.as_ref().map(|node| node.role))
        .map_err(|error| refuse(&source, error, report))?;
    report.document_found(
        &source,
        &seed,
        &host.hostname,
        host.node.as_ref().map(|node| node.role),
    );
    for (source, reason) in refused {
        report.document_ignored(&source, &reason);
    }
    if let Some(record) = &record {
        // Before the first change: after a power cut this document is resumed and no other.
        record.save(root)?;
        report.document_kept(DocumentStatus::of(record));
    }
    for key in &host.impossible {
        report.degraded(key);
    }
    let mut receipt = Receipt::open(root, &format!("{source} ({})", seed.origin));
    let changed = runner::run(&steps, root, &mut receipt, report)?;
    if let Some(record) = &mut record {
        record.phase = Phase::Applied;
        record.save(root)?;
        if let Some(node) = &host.node {
            scrub::copies(root, record, node.seed, &copies, report)?;
        }
    }
    if root.is_machine()
        && let Some(full) = disks::full(VAR)
    {
        report.attention(&full);
    }
    report.ready(changed);
    Ok(())
}

/// The document of a folder that a person names.
fn given(root: &Root, sources: &[Box<dyn Source>], report: &mut Reporter) -> Result<Taken> {
    let found = look_once(root, sources, report);
    let (source, seed) = found.map_err(|error| refuse("", error, report))?;
    let seed = unlock(root, source, &seed, report)?.seed;
    let (host, steps) = prepare(&seed, root).map_err(|error| refuse(source, error, report))?;
    Ok(Taken {
        source: source.to_owned(),
        seed,
        host,
        steps,
        record: None,
        copies: Vec::new(),
        refused: Vec::new(),
    })
}

/// The document that this machine obeys: its own, or the first one that it finds.
fn take(root: &Root, sources: &[Box<dyn Source>], report: &mut Reporter) -> Result<Taken> {
    let kept = Record::open(root).map_err(|error| refuse("state", error, report))?;
    let Some(kept) = kept else {
        return take_first(root, sources, report);
    };
    match take_kept(root, sources, kept, report)? {
        Some(taken) => Ok(taken),
        None => take_first(root, sources, report),
    }
}

fn take_first(root: &Root, sources: &[Box<dyn Source>], report: &mut Reporter) -> Result<Taken> {
    let found = if root.is_machine() {
        wait_for_document(root, sources, report)
    } else {
        look_once(root, sources, report)
    };
    let (source, delivered) = found.map_err(|error| match error.downcast_ref::<Unreachable>() {
        // The unit starts again, and the server may be there then.
        Some(_) => error,
        None => refuse("", error, report),
    })?;
    let Opened { seed, lock } = unlock(root, source, &delivered, report)?;
    let checked = trust::first(source, &seed).and_then(|mut record| {
        record.lock = lock;
        let (host, steps) = prepare(&seed, root)?;
        trust::check_names(&record, &host)?;
        Ok((record, host, steps))
    });
    let (record, host, steps) = checked.map_err(|error| refuse(source, error, report))?;
    Ok(Taken {
        source: source.to_owned(),
        copies: vec![delivered],
        seed,
        host,
        steps,
        record: Some(record),
        refused: Vec::new(),
    })
}

/// The first document, opened if it is encrypted.
fn unlock(root: &Root, source: &str, seed: &Seed, report: &mut Reporter) -> Result<Opened> {
    passphrase::open_first(root, seed, report).map_err(|error| match error.is::<Unasked>() {
        // The unit starts again, and asks again.
        true => error,
        false => refuse(source, error, report),
    })
}

/// The kept document, or a newer one that is signed for this host. `None`: a reset token made the
/// machine forget its document. Nothing else that the sources have stops the boot.
fn take_kept(
    root: &Root,
    sources: &[Box<dyn Source>],
    kept: Record,
    report: &mut Reporter,
) -> Result<Option<Taken>> {
    let events = match root.is_machine() {
        true => Some(DeviceEvents::listen()?),
        false => None,
    };
    if events.is_some() && !uevent::settle(SETTLE)? {
        log::warn!("udev is still busy; a newer document may be found at the next boot only");
    }
    let cards_until = Instant::now() + CARDS;
    loop {
        let machine = Identity::read(root)?;
        let attempts = source::find_each(sources, &machine);
        for attempt in &attempts {
            report.source_tried(attempt);
        }
        let mut found = trust::compare(root, &kept, attempts);
        if let Some(number) = found.reset {
            log::warn!(
                "a reset token with the number {number} makes this machine forget its document"
            );
            kept.forget(root, number)?;
            return Ok(None);
        }
        for newer in std::mem::take(&mut found.newer) {
            let (source, record) = (newer.source, newer.record);
            let seed = record.seed();
            let checked = prepare(&seed, root).and_then(|(host, steps)| {
                trust::check_names(&record, &host)?;
                Ok((host, steps))
            });
            match checked {
                Ok((host, steps)) => {
                    return Ok(Some(Taken {
                        source,
                        copies: vec![newer.seed],
                        seed,
                        host,
                        steps,
                        record: Some(record),
                        refused: found.refused,
                    }));
                }
                Err(error) => found.refused.push((source, format!("{error:#}"))),
            }
        }
        let seed = kept.seed();
        let refuse_kept = |error, report: &mut Reporter| refuse("state", error, report);
        let mismatch =
            directory::mismatch(&seed, &machine).map_err(|error| refuse_kept(error, report))?;
        if let Some(mismatch) = mismatch {
            let waits = match &events {
                Some(events) => events.wait_until(cards_until)?,
                None => false,
            };
            if waits {
                continue;
            }
            let wrong = WrongMachine(format!(
                "the document of this machine's state is for another machine: {mismatch}"
            ));
            return Err(refuse_kept(wrong.into(), report));
        }
        let (host, steps) = prepare(&seed, root).map_err(|error| refuse_kept(error, report))?;
        return Ok(Some(Taken {
            source: "kept".to_owned(),
            seed,
            host,
            steps,
            copies: found.same,
            refused: found.refused,
            record: Some(kept),
        }));
    }
}

/// Decodes and checks everything, before the first byte is written.
pub fn prepare(seed: &Seed, root: &Root) -> Result<(Host, Vec<Box<dyn Step>>)> {
    let (mut host, notices) = host::understand(seed)?;
    for notice in notices {
        log::warn!("{}", notice.one_line());
    }
    keep_name(&mut host, root)?;
    let mounts = Mounts::take_impossible(root, &mut host.mounts);
    host.impossible.extend(mounts);
    refuse_impossible(&host, root)?;
    host.other_hosts = hosts::other_hosts(root, &plan::files(&host, root))?;
    let steps = plan::steps(&host, root)?;
    Ok((host, steps))
}

/// With `preserve_hostname` the machine's own name takes the place of the document's.
fn keep_name(host: &mut Host, root: &Root) -> Result<()> {
    if host.keeps_hostname {
        let bytes = root.read(hostname::PATH)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        if !text.is_empty() {
            host.hostname = text;
        }
    }
    Ok(())
}

/// The topology of the image chooses whether keys that it cannot honour stop the boot.
fn refuse_impossible(host: &Host, root: &Root) -> Result<()> {
    if host.impossible.is_empty() || !root.exists(IMAGE_FILE) {
        return Ok(());
    }
    ensure!(
        plan::image_file(root)?.impossible_keys == ImpossibleKeys::Report,
        "{}\nthis image refuses such keys (`image.impossible_keys` of its topology); remove them",
        host.impossible.join("\n")
    );
    Ok(())
}

/// Asks the sources once; no document is an error.
pub fn look_once(
    root: &Root,
    sources: &[Box<dyn Source>],
    report: &mut Reporter,
) -> Result<(&'static str, Seed)> {
    let machine = Identity::read(root)?;
    ask_sources(sources, &machine, report)?
        .map_err(|reasons| anyhow::anyhow!("no document: {}", reasons.join("; ")))
}

/// The document and its source, or why no source has one. Reports every attempt.
fn ask_sources(
    sources: &[Box<dyn Source>],
    machine: &Identity,
    report: &mut Reporter,
) -> Result<std::result::Result<(&'static str, Seed), Vec<String>>> {
    let attempts = source::find(sources, machine);
    for attempt in &attempts {
        report.source_tried(attempt);
    }
    source::outcome(attempts)
}

/// Asks the sources until one has a document: after udev has handled the devices of this boot, then
/// at each new disk or network card. A document for another machine is rejected only after
/// [`CARDS`].
fn wait_for_document(
    root: &Root,
    sources: &[Box<dyn Source>],
    report: &mut Reporter,
) -> Result<(&'static str, Seed)> {
    // Listen before asking, so that no device is missed in between.
    let events = DeviceEvents::listen()?;
    if !uevent::settle(SETTLE)? {
        log::warn!(
            "udev is still busy after {} s; asking the sources for a document now",
            SETTLE.as_secs()
        );
    }
    let cards_until = Instant::now() + CARDS;
    loop {
        let machine = Identity::read(root)?;
        match ask_sources(sources, &machine, report) {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(reasons)) => {
                report.no_document(&machine, reasons);
                events.wait()?;
            }
            Err(error) if error.downcast_ref::<WrongMachine>().is_some() => {
                if !events.wait_until(cards_until)? {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn refuse(source: &str, error: Error, report: &mut Reporter) -> Error {
    let refused = Refused(error);
    report.document_refused(source, &refused.to_string());
    refused.into()
}
