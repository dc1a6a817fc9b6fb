//! One host's NoCloud files, read and not yet understood, and what a source answers.

use anyhow::{Result, anyhow};
use userdata::document::{HostMatch, MetaData};

/// The files of one host.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed {
    /// Where it came from, for people: `/dev/vdb`, `/dev/vdb/hosts/m0`.
    pub origin: String,
    /// As delivered; it may be compressed.
    pub user_data: Vec<u8>,
    /// Empty when there is none.
    pub meta_data: Vec<u8>,
    pub network_config: Option<Vec<u8>>,
    /// A cloud-config below that of `user_data`.
    pub vendor_data: Option<Vec<u8>>,
}

/// Without the bytes, which hold keys.
impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seed({}, {} bytes)", self.origin, self.bytes())
    }
}

impl Seed {
    /// The size of all files.
    pub fn bytes(&self) -> usize {
        self.user_data.len()
            + self.meta_data.len()
            + self.network_config.as_ref().map_or(0, Vec::len)
            + self.vendor_data.as_ref().map_or(0, Vec::len)
    }

    /// The machine that `meta-data` names; empty if it names none.
    pub fn host_match(&self) -> Result<HostMatch> {
        let name = format!("{}/meta-data", self.origin);
        let (meta_data, _) = MetaData::parse(&name, &self.meta_data)
            .map_err(|found| anyhow!("{}", found.lines().collect::<Vec<_>>().join("\n")))?;
        Ok(meta_data.matching)
    }
}

/// What a source has for this machine.
#[derive(Debug)]
pub enum SourceResult {
    Found(Seed),
    /// With the reason.
    NotFound(String),
}

/// The document is for another machine, as far as is known yet: the driver of the network card that
/// it names may still be loading.
#[derive(Debug)]
pub struct WrongMachine(pub String);

impl std::fmt::Display for WrongMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongMachine {}
