//! Merges backends from flags, file, cache and discovery.
//!
//! Lists candidates only; `pool` decides which of them are used and when an absent one is evicted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::sockets::is_local;

pub mod cache;
pub mod file;

use cache::Cache;
use file::File;

/// Upper bound of a list: no cluster has more apiservers, and each backend costs connections.
const MOST: usize = 64;

/// How long servers found in the kernel's table at start count as backends if no better source
/// exists.
const ADOPTED: Duration = Duration::from_secs(300);

/// Where lists come from.
#[derive(Debug, Clone)]
pub struct Sources {
    pub service: SocketAddr,
    pub scheduler: String,
    /// Identifies this node: it rotates the list so that nodes start with different servers.
    pub seed: String,
    pub flags: Vec<SocketAddr>,
    pub file: Option<PathBuf>,
    /// `None` without discovery: there is no live list to cache.
    pub cache: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Members {
    sources: Sources,
    file: Option<File>,
    cache: Option<Cache>,
    cached: Vec<SocketAddr>,
    live: Option<Vec<SocketAddr>>,
    adopted: Option<(Instant, Vec<SocketAddr>)>,
}

impl Members {
    /// Reads the file and the cache. An unreadable file is an error, an unreadable cache a warning.
    pub fn new(sources: Sources) -> anyhow::Result<Self> {
        let mut file = match &sources.file {
            // Flags take precedence.
            Some(path) if sources.flags.is_empty() => Some(File::new(path.clone())),
            _ => None,
        };
        if let Some(file) = &mut file {
            file.read()?;
        }
        let cache = sources.cache.clone().map(Cache::new);
        let cached = cache.as_ref().and_then(|cache| match cache.read() {
            Ok(cached) => cached,
            Err(error) => {
                log::warn!("{error:#}; continuing without the cached server list");
                None
            }
        });
        let mut members = Self {
            sources,
            file,
            cache,
            cached: Vec::new(),
            live: None,
            adopted: None,
        };
        for seed in members.seeds() {
            members.check(*seed)?;
        }
        members.cached = members.fit(cached.unwrap_or_default());
        ensure!(
            !members.list(Instant::now()).is_empty(),
            "no real servers; set `--rs ip:port,...` or `--config`"
        );
        Ok(members)
    }

    /// Reloads the file if it changed. `Ok(true)`: the list changed. An invalid file changes
    /// nothing.
    pub fn reread(&mut self) -> anyhow::Result<bool> {
        let Some(file) = &mut self.file else {
            return Ok(false);
        };
        let before = file.servers().to_vec();
        if !file.reread()? {
            return Ok(false);
        }
        let bad = file.servers().iter().copied();
        let bad = bad.map(|server| self.sources.check(server));
        if let Some(Err(error)) = bad.into_iter().find(Result::is_err) {
            if let Some(file) = &mut self.file {
                file.keep(before);
            }
            return Err(error);
        }
        Ok(true)
    }

    /// Stores and caches the live list. `false`: unchanged. An empty list is ignored: a cluster
    /// always has an apiserver.
    pub fn on_discovered(&mut self, live: Vec<SocketAddr>) -> bool {
        let live = self.fit(live);
        if live.is_empty() || self.live.as_ref() == Some(&live) {
            return false;
        }
        if let Some(cache) = &self.cache
            && (self.cached != live || self.live.is_none())
            && let Err(error) = cache.write(&live)
        {
            log::warn!("{error:#}; the next start uses only the configured servers");
        }
        self.cached.clone_from(&live);
        self.live = Some(live);
        true
    }

    /// Adopts the servers found in the table if there is neither a live nor a cached list: a
    /// restart without a cache must not remove a discovered server.
    pub fn adopt(&mut self, found: impl Iterator<Item = SocketAddr>, now: Instant) -> bool {
        if self.adopted.is_some()
            || self.live.is_some()
            || self.cache.is_none()
            || !self.cached.is_empty()
        {
            return false;
        }
        let found = self.fit(found.collect());
        let any = !found.is_empty();
        self.adopted = Some((now, found));
        any
    }

    /// The backends in the order of insertion, each with its weight when up.
    pub fn list(&self, now: Instant) -> Vec<(SocketAddr, u32)> {
        let mut servers: Vec<SocketAddr> = Vec::new();
        let adopted = match &self.adopted {
            Some((since, found))
                if self.live.is_none() && now.saturating_duration_since(*since) < ADOPTED =>
            {
                found.as_slice()
            }
            _ => &[],
        };
        let listed = self.live.as_ref().unwrap_or(&self.cached);
        for server in self.seeds().iter().chain(listed).chain(adopted) {
            if !servers.contains(server) {
                servers.push(*server);
            }
        }
        // `rr` starts at the head of the list: with the same list everywhere, all nodes would start
        // on one server.
        let shift = self.sources.seed.bytes().fold(0usize, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(byte.into())
        });
        let shift = shift % servers.len().max(1);
        servers.rotate_left(shift);
        let prefers_self = self.sources.scheduler == "fo";
        let weight = |server: SocketAddr| 1 + u32::from(prefers_self && is_local(server.ip()));
        servers
            .into_iter()
            .map(|server| (server, weight(server)))
            .collect()
    }

    /// The number of servers by source.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let file = self.file.as_ref().map_or(0, |file| file.servers().len());
        [
            ("flags", self.sources.flags.len()),
            ("file", file),
            ("cache", self.cached.len()),
            ("live", self.live.as_ref().map_or(0, Vec::len)),
        ]
        .map(|(source, count)| (source.to_owned(), count as u64))
        .into()
    }

    fn seeds(&self) -> &[SocketAddr] {
        self.file
            .as_ref()
            .map_or(&self.sources.flags, |file| file.servers())
    }

    fn check(&self, server: SocketAddr) -> anyhow::Result<()> {
        self.sources.check(server)
    }

    /// Filters a discovered or cached list to usable addresses.
    fn fit(&self, mut servers: Vec<SocketAddr>) -> Vec<SocketAddr> {
        servers.retain(|server| self.check(*server).is_ok() && !server.ip().is_loopback());
        servers.sort();
        servers.dedup();
        servers.truncate(MOST);
        servers
    }
}

impl Sources {
    fn check(&self, server: SocketAddr) -> anyhow::Result<()> {
        let service = self.service;
        ensure!(
            server.is_ipv4() == service.is_ipv4(),
            "real server `{server}` and virtual server `{service}` are of different families, between which IPVS \
             cannot translate"
        );
        ensure!(
            server.ip() != service.ip(),
            "real server `{server}` is the virtual server itself"
        );
        ensure!(
            !server.ip().is_unspecified() && server.port() != 0,
            "real server `{server}` is not a connectable address"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests;
