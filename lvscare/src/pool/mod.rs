//! The pool of backends: derives the desired table and the connections to close from their health.
//!
//! Pure: verdicts, the actual table and the time are arguments. Two rules come first. *Never zero*:
//! a table with a usable server never becomes one without; if no server is up, all are used
//! ("panic", Envoy's term). *No proof by silence*: a timeout alone closes no connection and deletes
//! no server, because this node may be disconnected; another server must have answered before and
//! after the probe.

pub mod health;
pub mod members;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::ipvs::Service;
use crate::pool::health::{Class, Health, Thresholds, Verdict};
use crate::table::{Actual, Desired};

/// An absent and failing backend is evicted after this long, even if no other is up.
const ABSENT: Duration = Duration::from_secs(5 * 60);

/// How long a removed server may keep its connections.
const GRACE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub thresholds: Thresholds,
    /// A server sick for this long, with another up, is treated as gone.
    pub kill_sick_after: Duration,
}

/// A server of the pool.
#[derive(Debug, Clone)]
pub struct Backend {
    pub address: SocketAddr,
    /// Its weight when it is up.
    pub weight: u32,
    pub health: Health,
    /// When the class last changed.
    pub since: Instant,
    /// The failure of the last probe.
    pub cause: Option<String>,
    /// First and last response of the current run of good ones.
    answers: Option<(Instant, Instant)>,
    last: Last,
    /// When it was first missing from the discovered list.
    absent_since: Option<Instant>,
}

impl Backend {
    fn new(address: SocketAddr, weight: u32, now: Instant) -> Self {
        Self {
            address,
            weight,
            health: Health::default(),
            since: now,
            cause: None,
            answers: None,
            last: Last::Answered,
            absent_since: None,
        }
    }
}

/// The outcome of the last probe.
#[derive(Debug, Clone, Copy)]
enum Last {
    /// Any response: old connections may be alive.
    Answered,
    /// The host is alive, the port is closed.
    Refused,
    /// No response. When the probe began.
    Silent(Instant),
}

/// An event to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Transition {
        address: SocketAddr,
        from: Class,
        to: Class,
        cause: Option<String>,
        after: Duration,
    },
    /// A backend was added.
    Joined(SocketAddr),
    /// An absent backend was evicted.
    Left(SocketAddr),
    PanicEntered,
    PanicLeft,
}

/// The desired table and the connections to close.
#[derive(Debug, Clone)]
pub struct Plan {
    pub desired: Desired,
    /// Servers missing from `desired` whose connections are dead and must be closed.
    pub kill: Vec<SocketAddr>,
    pub events: Vec<Event>,
}

#[derive(Debug)]
pub struct Pool {
    service: Service,
    rules: Rules,
    backends: Vec<Backend>,
    /// Servers found in our service but not in the pool, and since when.
    leaving: BTreeMap<SocketAddr, Instant>,
    panic: bool,
    /// Whether the table ever had a usable server.
    was_usable: bool,
}

impl Pool {
    /// `backends` in the order of insertion, each with its weight when up.
    pub fn new(
        service: Service,
        rules: Rules,
        backends: &[(SocketAddr, u32)],
        now: Instant,
    ) -> Self {
        let backend = |&(address, weight): &(SocketAddr, u32)| Backend::new(address, weight, now);
        let backends = backends.iter().map(backend).collect();
        Self {
            service,
            rules,
            backends,
            leaving: BTreeMap::new(),
            panic: false,
            was_usable: false,
        }
    }

    pub fn service(&self) -> &Service {
        &self.service
    }

    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    pub fn is_panicking(&self) -> bool {
        self.panic
    }

    /// Merges the discovered backends. A missing backend may be alive, as an overloaded apiserver
    /// drops out of the list; it is kept until `plan` can safely evict it. An empty list is
    /// ignored.
    pub fn set_backends(&mut self, told: &[(SocketAddr, u32)], now: Instant) -> Vec<Event> {
        if told.is_empty() {
            return Vec::new();
        }
        for backend in &mut self.backends {
            match told.iter().find(|(address, _)| *address == backend.address) {
                Some((_, weight)) => {
                    backend.weight = *weight;
                    backend.absent_since = None;
                }
                None => backend.absent_since = backend.absent_since.or(Some(now)),
            }
        }
        let mut events = Vec::new();
        for &(address, weight) in told {
            if !self
                .backends
                .iter()
                .any(|backend| backend.address == address)
            {
                self.backends.push(Backend::new(address, weight, now));
                events.push(Event::Joined(address));
            }
        }
        events
    }

    /// Evicts absent backends: at once if a listed one is up, after `ABSENT` if they fail. The pool
    /// is never emptied.
    fn evict_absent(&mut self, now: Instant) -> Vec<Event> {
        let another_is_up = self
            .backends
            .iter()
            .any(|backend| backend.absent_since.is_none() && backend.health.class() == Class::Up);
        let goes = |backend: &Backend| {
            let Some(since) = backend.absent_since else {
                return false;
            };
            let fails = matches!(backend.health.class(), Class::Sick | Class::Gone);
            another_is_up || fails && now.saturating_duration_since(since) >= ABSENT
        };
        // An empty pool helps no client.
        if self.backends.iter().all(goes) {
            return Vec::new();
        }
        let left = self.backends.extract_if(.., |backend| goes(backend));
        left.map(|backend| Event::Left(backend.address)).collect()
    }

    /// Whether all backends are up and listed. If so, a verdict without a change needs no
    /// reconcile.
    pub fn is_steady(&self) -> bool {
        let steady = |backend: &Backend| {
            backend.health.class() == Class::Up && backend.absent_since.is_none()
        };
        !self.panic && self.backends.iter().all(steady)
    }

    /// Records a probe of `address` from `began` to `now`. A server outside the pool is ignored.
    pub fn observe(
        &mut self,
        address: SocketAddr,
        verdict: &Verdict,
        began: Instant,
        now: Instant,
    ) -> Option<Event> {
        let eager = !self
            .backends
            .iter()
            .any(|backend| backend.health.class() == Class::Up);
        let thresholds = self.rules.thresholds;
        let backend = self
            .backends
            .iter_mut()
            .find(|backend| backend.address == address)?;
        backend.cause = verdict.cause().map(str::to_owned);
        backend.last = match verdict {
            Verdict::Silent { .. } => Last::Silent(began),
            Verdict::Refused { .. } => Last::Refused,
            _ => Last::Answered,
        };
        backend.answers = match (verdict, backend.answers) {
            (Verdict::Up, Some((first, _))) => Some((first, now)),
            (Verdict::Up, None) => Some((now, now)),
            _ => None,
        };
        let from = backend.health.judge(verdict, thresholds, eager, now)?;
        let after = now.saturating_duration_since(backend.since);
        backend.since = now;
        Some(Event::Transition {
            address,
            from,
            to: backend.health.class(),
            cause: backend.cause.clone(),
            after,
        })
    }

    /// Derives the desired table from the actual one.
    pub fn plan(&mut self, actual: &Actual, now: Instant) -> Plan {
        let mut events = self.evict_absent(now);
        if self.panic
            && self
                .backends
                .iter()
                .any(|backend| backend.health.class() == Class::Up)
        {
            self.panic = false;
            events.push(Event::PanicLeft);
        }
        let mut destinations = Vec::new();
        let mut kill = Vec::new();
        for backend in &self.backends {
            let found = actual.weight(backend.address);
            match backend.health.class() {
                Class::Up => destinations.push((backend.address, backend.weight)),
                Class::Unknown => {
                    destinations.extend(found.map(|weight| (backend.address, weight)));
                }
                Class::Sick | Class::Gone if self.is_dead(backend, now) => {
                    kill.push(backend.address);
                }
                // A server missing from the table is not added with weight 0.
                Class::Sick | Class::Gone => {
                    destinations.extend(found.map(|_| (backend.address, 0)));
                }
            }
        }
        let usable = destinations.iter().any(|(_, weight)| *weight > 0);
        // Only a table that never had a usable server may wait for the first verdicts.
        let undecided = self
            .backends
            .iter()
            .any(|backend| backend.health.class() == Class::Unknown);
        self.was_usable |= usable || actual.is_usable();
        if self.panic || !usable && (self.was_usable || !undecided) {
            if !self.panic {
                self.panic = true;
                events.push(Event::PanicEntered);
            }
            kill.clear();
            destinations = self
                .backends
                .iter()
                .map(|backend| (backend.address, backend.weight))
                .collect();
            self.was_usable = true;
        }
        self.drain_foreign(actual, now, &mut destinations, &mut kill);
        Plan {
            desired: Desired {
                service: self.service.clone(),
                destinations,
            },
            kill,
            events,
        }
    }

    /// Whether connections to this sick or gone server are certainly dead.
    fn is_dead(&self, backend: &Backend, now: Instant) -> bool {
        let mut others = self
            .backends
            .iter()
            .filter(|other| other.address != backend.address);
        match (backend.health.class(), backend.last) {
            (Class::Gone, Last::Refused) => true,
            // Coming back.
            (Class::Gone, Last::Answered) => false,
            // Another server answered before and after the probe: this node was connected.
            (Class::Gone, Last::Silent(began)) => others.any(|other| {
                other
                    .answers
                    .is_some_and(|(first, last)| first <= began && began < last)
            }),
            (Class::Sick, _) => {
                now.saturating_duration_since(backend.since) >= self.rules.kill_sick_after
                    && others.any(|other| other.health.class() == Class::Up)
            }
            (Class::Unknown | Class::Up, _) => false,
        }
    }

    /// Drains servers of our service outside the pool; removes them when idle or after the grace.
    fn drain_foreign(
        &mut self,
        actual: &Actual,
        now: Instant,
        destinations: &mut Vec<(SocketAddr, u32)>,
        kill: &mut Vec<SocketAddr>,
    ) {
        let foreign_servers: Vec<_> = actual
            .destinations
            .iter()
            .filter(|found| {
                !self
                    .backends
                    .iter()
                    .any(|backend| backend.address == found.address)
            })
            .collect();
        self.leaving.retain(|address, _| {
            foreign_servers
                .iter()
                .any(|foreign| foreign.address == *address)
        });
        for foreign in foreign_servers {
            let since = *self.leaving.entry(foreign.address).or_insert(now);
            if self.panic {
                destinations.push((foreign.address, foreign.weight));
            } else if now.saturating_duration_since(since) >= GRACE {
                kill.push(foreign.address);
            } else if foreign.active_connections > 0 {
                destinations.push((foreign.address, 0));
            }
        }
    }
}

#[cfg(test)]
mod membership_tests;
#[cfg(test)]
mod tests;
