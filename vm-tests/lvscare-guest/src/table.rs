//! The history of a worker's IPVS table: servers and weights, read every 20 ms.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use lvscare::ipvs::{Identity, Ipvs};

use crate::net::Net;
use crate::netns::Netns;

const INTERVAL: Duration = Duration::from_millis(20);

/// Weights by the numbers of the servers; `None` if the virtual service does not exist.
pub(crate) type Weights = Option<BTreeMap<u8, u32>>;

/// Records the table until dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    history: Arc<Mutex<Vec<(Instant, Weights)>>>,
}

impl Watcher {
    pub(crate) fn start(netns: &Netns, net: Net) -> Self {
        let watcher = Self {
            stop: Arc::default(),
            history: Arc::default(),
        };
        let (stop, history) = (Arc::clone(&watcher.stop), Arc::clone(&watcher.history));
        netns.spawn(move || {
            let mut ipvs = None;
            while !stop.load(Ordering::Relaxed) {
                let weights = read(&mut ipvs, net);
                let mut history = lock(&history);
                if history.last().is_none_or(|(_, last)| *last != weights) {
                    history.push((Instant::now(), weights));
                }
                drop(history);
                std::thread::sleep(INTERVAL);
            }
        });
        watcher
    }

    pub(crate) fn now(&self) -> Weights {
        lock(&self.history)
            .last()
            .and_then(|(_, weights)| weights.clone())
    }

    /// The states since `since`, each with its time. The first is the state at `since`.
    pub(crate) fn since(&self, since: Instant) -> Vec<(Instant, Weights)> {
        let history = lock(&self.history);
        let first = history.iter().rposition(|(at, _)| *at <= since);
        history[first.unwrap_or(0)..].to_vec()
    }

    /// When the table first met the condition since `since`.
    pub(crate) fn first(&self, since: Instant, is: impl Fn(&Weights) -> bool) -> Option<Instant> {
        self.since(since)
            .iter()
            .find(|(_, weights)| is(weights))
            .map(|(at, _)| (*at).max(since))
    }

    /// Waits until the table meets the condition.
    pub(crate) fn wait(
        &self,
        what: &str,
        timeout: Duration,
        is: impl Fn(&Weights) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        while !is(&self.now()) {
            let now = self.now();
            ensure!(
                Instant::now() < deadline,
                "timed out: {what}; the table is {now:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// How often a used server was removed or drained.
    pub(crate) fn removals(&self, since: Instant) -> usize {
        let history = self.since(since);
        let pairs = history.windows(2);
        pairs
            .map(|pair| {
                let before = pair[0].1.iter().flatten();
                before
                    .filter(|(n, weight)| **weight > 0 && !uses(&pair[1].1, **n))
                    .count()
            })
            .sum()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Whether the server gets new connections.
pub(crate) fn uses(weights: &Weights, master: u8) -> bool {
    weights
        .as_ref()
        .and_then(|weights| weights.get(&master))
        .is_some_and(|weight| *weight > 0)
}

/// Whether exactly these servers get new connections.
pub(crate) fn uses_only(weights: &Weights, masters: &[u8]) -> bool {
    (1..=9).all(|n| uses(weights, n) == masters.contains(&n))
}

/// Reads the table, and opens the connection to the kernel if necessary.
pub(crate) fn read(ipvs: &mut Option<Ipvs>, net: Net) -> Weights {
    if ipvs.is_none() {
        *ipvs = Ipvs::open().ok();
    }
    let open = ipvs.as_mut()?;
    let service = net.service();
    open.service(Identity::tcp(service)).ok().flatten()?;
    let found = open.destinations(service).ok()?;
    let number = |n: u8| {
        let address = net.master(n);
        let found = found.iter().find(|found| found.address == address);
        found.map(|found| (n, found.weight))
    };
    Some((1..=9).filter_map(number).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
