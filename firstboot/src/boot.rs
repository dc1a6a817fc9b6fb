//! One boot: find the document, parse it, list the steps, run them.

use std::time::{Duration, Instant};

use anyhow::{Error, Result};

use crate::document::{self, Host};
use crate::plan;
use crate::receipt::Receipt;
use crate::report::Reporter;
use crate::runner;
use crate::source::{self, Seed, Source, WrongMachine};
use crate::step::{Step, hosts};
use crate::system::disks;
use crate::system::files::Root;
use crate::system::machine::Identity;
use crate::system::uevent::{self, DeviceEvents};

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

/// Applies the document to this machine, or to the tree below `root`. With `may_wait`, a machine
/// without a document waits for one.
pub fn run(
    root: &Root,
    sources: &[Box<dyn Source>],
    may_wait: bool,
    report: &mut Reporter,
) -> Result<()> {
    let found = if may_wait && root.is_machine() {
        wait_for_document(root, sources, report)
    } else {
        look_once(root, sources, report)
    };
    let (source, seed) = found.map_err(|error| refuse("", error, report))?;
    let (host, steps) = prepare(&seed, root).map_err(|error| refuse(source, error, report))?;
    report.document_found(
        source,
        &seed,
        &host.hostname,
        host.node.as_ref().map(|node| node.role),
    );
    let mut receipt = Receipt::open(root, &format!("{source} ({})", seed.origin));
    let changed = runner::run(&steps, root, &mut receipt, report)?;
    if root.is_machine()
        && let Some(full) = disks::full(VAR)
    {
        report.attention(&full);
    }
    report.ready(changed);
    Ok(())
}

/// Decodes and checks everything, before the first byte is written.
pub fn prepare(seed: &Seed, root: &Root) -> Result<(Host, Vec<Box<dyn Step>>)> {
    let (mut host, notices) = document::understand(seed)?;
    for notice in notices {
        log::warn!("{}", notice.one_line());
    }
    host.other_hosts = hosts::other_hosts(root, &plan::files(&host, root))?;
    let steps = plan::steps(&host, root)?;
    Ok((host, steps))
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
                report.no_document(&machine.to_string(), reasons);
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
