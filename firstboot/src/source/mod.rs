//! Where this host's document may be found, in order, and asking each place.
//!
//! "Nothing here" and "here but broken" are different answers: the first looks further, the second stops. Nothing is
//! parsed here beyond what chooses between hosts.
//!
//! To add a source: a file with a type that implements [`Source`]; a line in [`machine_sources`]; a directory under
//! `tests/fixtures/sources` if it has a form of its own.

pub mod directory;
pub mod disk;
pub mod label;

use std::time::Instant;

use anyhow::{Context, Result};

use crate::report::Reporter;
use crate::system::machine::Identity;

/// A place where this host's document may be found.
pub trait Source {
    /// Stable word, used in the journal and the receipt.
    fn name(&self) -> &'static str;
    /// An error means that there is something here which cannot be used: the boot stops, no other source is asked.
    fn read(&self, machine: &Identity) -> Result<Look>;
}

/// A document for one machine that is, as far as is known yet, not this one: a network card whose driver is still being
/// loaded may be the one it names.
#[derive(Debug)]
pub struct Stranger(pub String);

impl std::fmt::Display for Stranger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Stranger {}

/// What a source has for this machine.
#[derive(Debug)]
pub enum Look {
    Found(Seed),
    /// Why there is nothing here for us.
    Nothing(String),
}

/// One host's NoCloud files, read and not yet understood.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed {
    /// Where it came from, for people: `/dev/vdb`, `/dev/vdb/hosts/m0`.
    pub origin: String,
    /// As delivered; it may be compressed.
    pub user_data: Vec<u8>,
    /// Empty when there is none.
    pub meta_data: Vec<u8>,
    pub network_config: Option<Vec<u8>>,
}

/// The bytes hold keys.
impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seed({}, {} bytes)", self.origin, self.bytes())
    }
}

impl Seed {
    /// How much was read.
    pub fn bytes(&self) -> usize {
        self.user_data.len()
            + self.meta_data.len()
            + self.network_config.as_ref().map_or(0, Vec::len)
    }
}

/// The sources of a running machine, in the order in which they win: an attached disk, then the image's
/// own seed partition.
pub fn machine_sources() -> Vec<Box<dyn Source>> {
    vec![Box::new(disk::LabelledDisk), Box::new(disk::SeedPartition)]
}

/// Asks each source in turn; the first that has something wins. `Err(reasons)` inside: none has, and why.
pub fn find(
    sources: &[Box<dyn Source>],
    machine: &Identity,
    report: &mut Reporter,
) -> Result<std::result::Result<(&'static str, Seed), Vec<String>>> {
    let mut reasons = Vec::new();
    for source in sources {
        let start = Instant::now();
        let look = source.read(machine);
        report.source_tried(source.name(), &look, start.elapsed());
        match look.with_context(|| format!("reading source `{}`", source.name()))? {
            Look::Found(seed) => return Ok(Ok((source.name(), seed))),
            Look::Nothing(reason) => reasons.push(format!("{}: {reason}", source.name())),
        }
    }
    Ok(Err(reasons))
}
