//! The places where this host's document may be, and asking each in order.
//!
//! "Not found" and "found, but broken" are different answers: after the first the next source is
//! asked, the second stops the boot. Sources parse only what chooses between hosts.
//!
//! To add a source: a file with a type that implements [`Source`], a line in [`machine_sources`],
//! and a directory under `tests/fixtures/sources` if it has a format of its own.

pub mod boot;
pub mod credentials;
pub mod directory;
pub mod disk;
pub mod ec2;
pub mod http;
mod maas;
mod network_data;
pub mod nocloud_net;
pub mod openstack;
pub mod seed;
pub mod superblock;
#[cfg(test)]
pub(crate) mod test_server;
mod uplink;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use seed::{Seed, SourceResult, WrongMachine};

use crate::system::files::Root;
use crate::system::machine::Identity;
use crate::trust;
use credentials::Credentials;
use ec2::Ec2;
use nocloud_net::{Named, Place};
use openstack::OpenStack;

/// A place where this host's document may be.
pub trait Source {
    /// Stable name in the journal and the receipt.
    fn name(&self) -> &'static str;
    /// An error means that there is a document that cannot be used. It stops the boot.
    fn read(&self, machine: &Identity) -> Result<SourceResult>;
    /// Everything that the source has, each on its own: for a machine that has a document already,
    /// where nothing that is found may stop the boot.
    fn read_each(&self, machine: &Identity) -> Vec<Result<SourceResult>> {
        vec![self.read(machine)]
    }
    /// Whether reading asks a server, which may be away.
    fn fetches(&self) -> bool {
        false
    }
}

/// One source that was asked.
#[derive(Debug)]
pub struct Attempt {
    pub source: &'static str,
    pub result: Result<SourceResult>,
    pub duration: Duration,
}

/// The sources of a running machine, first wins: what its start names, an attached disk, what it
/// booted from, the image's own seed partition, and the service of a cloud that SMBIOS names.
pub fn machine_sources() -> Vec<Box<dyn Source>> {
    let root = Root::new("/");
    let named = |place| Named {
        root: Root::new("/"),
        place,
    };
    vec![
        Box::new(named(Place::Cmdline)),
        Box::new(Credentials { root: root.clone() }),
        Box::new(named(Place::Serial)),
        Box::new(disk::LabelledDisk),
        Box::new(disk::ConfigDrive),
        Box::new(boot::BootOrigin),
        Box::new(disk::SeedPartition),
        Box::new(Ec2::new(&root)),
        Box::new(OpenStack::new(&root)),
    ]
}

/// Asks each source in turn, up to the first that finds a document or fails.
pub fn find(sources: &[Box<dyn Source>], machine: &Identity) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for source in sources {
        let start = Instant::now();
        let result = source.read(machine).map(without_remains);
        let is_last = !matches!(result, Ok(SourceResult::NotFound(_)));
        attempts.push(Attempt {
            source: source.name(),
            result,
            duration: start.elapsed(),
        });
        if is_last {
            break;
        }
    }
    attempts
}

/// Asks every source of this machine for everything that it has. Sources in the network are left
/// out: a server that is away must not hold up a machine that has its document.
pub fn find_each(sources: &[Box<dyn Source>], machine: &Identity) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for source in sources.iter().filter(|source| !source.fetches()) {
        let start = Instant::now();
        let results = source.read_each(machine);
        let duration = start.elapsed();
        attempts.extend(results.into_iter().map(|result| Attempt {
            source: source.name(),
            result: result.with_context(|| format!("reading source `{}`", source.name())),
            duration,
        }));
    }
    attempts
}

/// A scrubbed seed and a reset token are no document.
fn without_remains(result: SourceResult) -> SourceResult {
    match result {
        SourceResult::Found(seed) => match trust::no_document(&seed) {
            Some(reason) => SourceResult::NotFound(format!("{}: {reason}", seed.origin)),
            None => SourceResult::Found(seed),
        },
        other => other,
    }
}

/// The document of these attempts with its source, or why no source has one.
pub fn outcome(
    attempts: Vec<Attempt>,
) -> Result<std::result::Result<(&'static str, Seed), Vec<String>>> {
    let mut reasons = Vec::new();
    for Attempt { source, result, .. } in attempts {
        match result.with_context(|| format!("reading source `{source}`"))? {
            SourceResult::Found(seed) => return Ok(Ok((source, seed))),
            SourceResult::NotFound(reason) => reasons.push(format!("{source}: {reason}")),
        }
    }
    Ok(Err(reasons))
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    /// Answers with a seed, with nothing, or with an error.
    struct Fixed(&'static str);

    impl Source for Fixed {
        fn name(&self) -> &'static str {
            self.0
        }

        fn read(&self, _: &Identity) -> Result<SourceResult> {
            match self.0 {
                "empty" => Ok(SourceResult::NotFound("no disk".to_owned())),
                "broken" => bail!("bad superblock"),
                origin => Ok(SourceResult::Found(Seed {
                    origin: origin.to_owned(),
                    user_data: Vec::new(),
                    meta_data: Vec::new(),
                    network_config: None,
                    vendor_data: None,
                })),
            }
        }
    }

    fn ask(names: &[&'static str]) -> (usize, String) {
        let sources: Vec<Box<dyn Source>> = names
            .iter()
            .map(|name| Box::new(Fixed(name)) as _)
            .collect();
        let attempts = find(&sources, &Identity::default());
        let count = attempts.len();
        let outcome = match outcome(attempts) {
            Ok(Ok((source, _))) => source.to_owned(),
            Ok(Err(reasons)) => reasons.join("; "),
            Err(error) => format!("{error:#}"),
        };
        (count, outcome)
    }

    #[test]
    fn first_document_or_error_ends_the_search() {
        for (sources, count, outcome) in [
            (["empty", "disk", "broken"], 2, "disk"),
            (
                ["empty", "broken", "disk"],
                2,
                "reading source `broken`: bad superblock",
            ),
            (
                ["empty", "empty", "empty"],
                3,
                "empty: no disk; empty: no disk; empty: no disk",
            ),
        ] {
            assert_eq!(ask(&sources), (count, outcome.to_owned()), "{sources:?}");
        }
    }
}
