//! The hosts of an output folder: MAC and addresses that identify a machine, and its document.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, ensure};
use userdata::document::MetaData;
use userdata::network::{MacAddress, Network};

use crate::output::beneath;
use crate::output::manifest::{self, Manifest};

const HOSTS: &str = "hosts";

/// Files of a document that a host may fetch.
pub const FILES: [&str; 3] = ["user-data", "meta-data", "network-config"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub macs: Vec<MacAddress>,
    pub addresses: Vec<IpAddr>,
}

/// Why a document is not given: an HTTP status, and a sentence for both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub reason: String,
}

type List = Arc<Vec<Host>>;

/// The hosts, read again when the folder changes.
#[derive(Debug)]
pub struct Hosts {
    folder: PathBuf,
    known: Mutex<(SystemTime, List)>,
}

impl Hosts {
    pub fn open(folder: &Path) -> Result<Self> {
        let hosts = Self {
            folder: folder.to_owned(),
            known: Mutex::new((SystemTime::UNIX_EPOCH, List::default())),
        };
        ensure!(
            !hosts.all()?.is_empty(),
            "`{}` has no host with a document; run `imagegen userdata`",
            folder.display()
        );
        Ok(hosts)
    }

    pub fn count(&self) -> usize {
        self.all().map_or(0, |hosts| hosts.len())
    }

    /// All hosts.
    pub fn all(&self) -> Result<List> {
        let path = self.folder.join(manifest::FILE);
        let changed = fs::metadata(&path)
            .and_then(|meta| meta.modified())
            .with_context(|| format!("reading `{}`", path.display()))?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != changed {
            *known = (changed, Arc::new(read(&self.folder)?));
        }
        Ok(known.1.clone())
    }

    /// The host that may have the document for `mac`, asked for from `peer`, whose network card has
    /// the address `neighbour` if it is on a network of this machine.
    pub fn may_have(
        &self,
        mac: &MacAddress,
        peer: IpAddr,
        neighbour: Option<&MacAddress>,
    ) -> std::result::Result<Host, Refusal> {
        let refusal = |status, reason| Refusal { status, reason };
        let hosts = self.all().map_err(|error| {
            log::error!("{error:#}");
            refusal(500, "the server cannot read its hosts".to_owned())
        })?;
        let Some(host) = hosts.iter().find(|host| host.macs.contains(mac)) else {
            let reason = format!(
                "no host of this cluster has the MAC address {mac}; add it to the topology and \
                 run `imagegen userdata`"
            );
            return Err(refusal(404, reason));
        };
        let name = &host.name;
        match neighbour {
            Some(other) if host.macs.contains(other) => Ok(host.clone()),
            Some(other) => Err(refusal(
                403,
                format!(
                    "the document of {name} is for the MAC address {mac}; this request comes from \
                     {other}: boot from the network card of the topology"
                ),
            )),
            None if host.addresses.contains(&peer) => Ok(host.clone()),
            None => Err(refusal(
                403,
                format!(
                    "the document of {name} is for the MAC address {mac}; {peer} is on no network \
                     of this server, and it is not the address of {name}"
                ),
            )),
        }
    }

    /// A file of the host's document; `None` if it has none of that name.
    pub fn file(&self, host: &Host, name: &str) -> Result<Option<Vec<u8>>> {
        beneath::read(&self.folder, &Path::new(HOSTS).join(&host.name).join(name))
    }
}

fn read(folder: &Path) -> Result<Vec<Host>> {
    let manifest = Manifest::read(folder)?.unwrap_or_default();
    let names = manifest.outputs.keys().filter_map(|path| {
        let name = path.strip_prefix("hosts/")?.strip_suffix("/user-data")?;
        Some(name.to_owned())
    });
    let mut hosts: Vec<Host> = Vec::new();
    let mut owners: BTreeMap<MacAddress, String> = BTreeMap::new();
    for name in names {
        let host = host(folder, &name)?;
        for mac in &host.macs {
            if let Some(other) = owners.insert(mac.clone(), name.clone()) {
                return Err(anyhow!("the hosts `{other}` and `{name}` both have {mac}"));
            }
        }
        hosts.push(host);
    }
    Ok(hosts)
}

fn host(folder: &Path, name: &str) -> Result<Host> {
    let read = |file: &str| -> Result<(String, Vec<u8>)> {
        let path = Path::new(HOSTS).join(name).join(file);
        let bytes = beneath::read(folder, &path)?;
        let shown = folder.join(&path).display().to_string();
        let bytes = bytes.with_context(|| format!("`{shown}` is missing; run imagegen again"))?;
        Ok((shown, bytes))
    };
    let of = |found: yaml::Diagnostics| anyhow!("{}", found.lines().collect::<Vec<_>>().join("\n"));
    let (shown, bytes) = read("meta-data")?;
    let (meta, _) = MetaData::parse(&shown, &bytes).map_err(of)?;
    let (shown, bytes) = read("network-config")?;
    let text = String::from_utf8_lossy(&bytes);
    let (network, _) = Network::parse(&shown, &text).map_err(of)?;
    let ethernets = network
        .iter()
        .flat_map(|network| network.ethernets.values());
    let addresses = ethernets.flat_map(|device| device.addresses.iter().map(|net| net.addr()));
    Ok(Host {
        name: name.to_owned(),
        macs: meta.matching.macs,
        addresses: addresses.collect(),
    })
}
