//! Parses the addresses of all apiservers: EndpointSlices, Endpoints and watch events.
//!
//! Pure: bytes in, addresses out. Unknown fields are ignored.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, ensure};
use serde::Deserialize;

/// No list of apiservers has a longer line.
const LONGEST: usize = 1024 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    resource_version: String,
}

#[derive(Debug, Deserialize)]
struct Port {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    port: Option<u16>,
}

#[derive(Debug, Deserialize)]
struct Slice {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    endpoints: Option<Vec<SliceEndpoint>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Deserialize)]
struct SliceEndpoint {
    #[serde(default)]
    addresses: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct SliceList {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    items: Option<Vec<Slice>>,
}

#[derive(Debug, Deserialize)]
struct Endpoints {
    #[serde(default)]
    subsets: Option<Vec<Subset>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subset {
    #[serde(default)]
    addresses: Option<Vec<Address>>,
    #[serde(default)]
    not_ready_addresses: Option<Vec<Address>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Deserialize)]
struct Address {
    ip: String,
}

/// A list of slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub servers: Vec<SocketAddr>,
    /// The resource version at which a watch starts.
    pub version: String,
}

/// One line of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Servers(Vec<SocketAddr>),
    /// No change of members: a bookmark, or a deleted slice, which removes no apiserver.
    Nothing,
    /// The resource version is too old for a watch.
    Expired,
}

pub fn list(body: &[u8]) -> anyhow::Result<Listed> {
    let list: SliceList = serde_json::from_slice(body).context("reading the EndpointSliceList")?;
    let items = list.items.unwrap_or_default();
    Ok(Listed {
        servers: items.iter().flat_map(servers).collect(),
        version: list.metadata.resource_version,
    })
}

pub fn endpoints(body: &[u8]) -> anyhow::Result<Vec<SocketAddr>> {
    let endpoints: Endpoints = serde_json::from_slice(body).context("reading the Endpoints")?;
    let mut servers = Vec::new();
    for subset in endpoints.subsets.unwrap_or_default() {
        let ready = subset.addresses.unwrap_or_default();
        let others = subset.not_ready_addresses.unwrap_or_default();
        let addresses = ready.iter().chain(&others).map(|address| &*address.ip);
        servers.extend(join(addresses, &subset.ports.unwrap_or_default()));
    }
    Ok(servers)
}

pub fn event(line: &[u8]) -> anyhow::Result<Event> {
    #[derive(Deserialize)]
    struct Raw {
        #[serde(rename = "type")]
        kind: String,
        object: serde_json::Value,
    }
    #[derive(Deserialize)]
    struct Failure {
        #[serde(default)]
        code: u16,
        #[serde(default)]
        message: String,
    }
    let Raw { kind, object } = serde_json::from_slice(line).context("reading a watch's event")?;
    match &*kind {
        "ADDED" | "MODIFIED" => {
            let slice: Slice =
                serde_json::from_value(object).context("reading the EndpointSlice")?;
            log::debug!("endpoints at version {}", slice.metadata.resource_version);
            Ok(Event::Servers(servers(&slice).collect()))
        }
        "ERROR" => {
            let failure: Failure = serde_json::from_value(object).context("reading a Status")?;
            if failure.code == 410 {
                return Ok(Event::Expired);
            }
            anyhow::bail!("the watch ended: {} ({})", failure.message, failure.code)
        }
        _ => Ok(Event::Nothing),
    }
}

fn servers(slice: &Slice) -> impl Iterator<Item = SocketAddr> {
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    let addresses = endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    let ports = slice.ports.as_deref().unwrap_or_default();
    join(addresses.map(String::as_str), ports)
}

/// Ignores readiness: lvscare probes the servers itself.
fn join<'a>(
    addresses: impl Iterator<Item = &'a str>,
    ports: &[Port],
) -> std::vec::IntoIter<SocketAddr> {
    let https = ports
        .iter()
        .find(|port| port.name.as_deref() == Some("https"));
    let port = https.or(ports.first()).and_then(|port| port.port);
    let address = |text: &str| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, port?));
    addresses
        .filter_map(address)
        .collect::<Vec<_>>()
        .into_iter()
}

/// Splits a stream of chunks into lines. Each byte is searched once and moved at most twice.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Where the current line begins.
    start: usize,
    /// Up to where it has no end.
    searched: usize,
}

impl Lines {
    pub fn push(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        ensure!(
            self.bytes.len() + bytes.len() <= LONGEST,
            "an event longer than {LONGEST} bytes"
        );
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The next complete line, without its end. Skips empty ones.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        loop {
            let rest = &self.bytes[self.searched..];
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.bytes.len();
                return None;
            };
            let end = self.searched + length;
            let line = &self.bytes[self.start..end];
            let line = (!line.trim_ascii().is_empty()).then(|| line.to_vec());
            (self.start, self.searched) = (end + 1, end + 1);
            if line.is_some() {
                return line;
            }
        }
    }
}

#[cfg(test)]
mod tests;
