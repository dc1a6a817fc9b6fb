//! The reconciler: compares the desired table with the kernel's and repairs the difference.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::Context;
use rtnetlink::Handle;
use tokio::net::TcpListener;

use crate::apply::{ApplyMode, Done, Table, put_route};
use crate::event_log::{log_event, log_once};
use crate::pool::health::Class;
use crate::pool::members::Members;
use crate::pool::{Event, Pool};
use crate::probe::checker::Report;
use crate::probe::checkers::HealthCheckers;
use crate::settings::Settings;
use crate::status::histogram::Histogram;
use crate::status::server::{self, Shared};
use crate::status::{Counters, Status};
use crate::sysctl;
use crate::table::Actual;

pub(crate) struct Reconciler {
    settings: Settings,
    handle: Handle,
    table: Table,
    pub(crate) pool: Pool,
    members: Members,
    checkers: HealthCheckers,
    source: Option<IpAddr>,
    /// Whether our service was in the table at the last pass.
    was_present: bool,
    last_wipe: Option<Instant>,
    counters: Counters,
    seen: BTreeMap<SocketAddr, ProbeStats>,
    wrong_sysctls: BTreeMap<String, String>,
    /// The last error of the route and of the table; each is logged once.
    route_error: Option<String>,
    table_error: Option<String>,
    shared: Shared,
}

/// Probe figures of one server for the metrics.
#[derive(Default)]
struct ProbeStats {
    last: f64,
    probes: Histogram,
    transitions: u64,
}

impl Reconciler {
    pub(crate) fn new(
        settings: Settings,
        handle: Handle,
        members: Members,
        checkers: HealthCheckers,
    ) -> Self {
        let now = Instant::now();
        let pool = Pool::new(settings.service(), settings.rules, &members.list(now), now);
        Self {
            settings,
            handle,
            table: Table::default(),
            pool,
            members,
            checkers,
            source: None,
            was_present: false,
            last_wipe: None,
            counters: Counters::default(),
            seen: BTreeMap::new(),
            wrong_sysctls: BTreeMap::new(),
            route_error: None,
            table_error: None,
            shared: Shared::default(),
        }
    }

    pub(crate) async fn listen(&self) {
        let address = self.settings.status_address;
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tokio::spawn(server::serve(listener, self.shared.clone()));
            }
            // The status server is optional.
            Err(error) => {
                log::warn!(
                    "listening on `{address}`: {error}; continuing without status and metrics"
                );
            }
        }
    }

    /// Records a probe result. `true`: the class changed.
    pub(crate) fn on_probe(&mut self, report: &Report) -> bool {
        let (began, ended) = (report.began, report.ended);
        let seen = self.seen.entry(report.address).or_default();
        seen.last = (ended - began).as_secs_f64();
        seen.probes.add(seen.last);
        let Some(event) =
            self.pool
                .observe(report.address, &report.verdict, began.into(), ended.into())
        else {
            return false;
        };
        seen.transitions += 1;
        log_event(&event);
        true
    }

    /// Merges the discovered list.
    pub(crate) fn on_discovered(&mut self, list: Vec<SocketAddr>) {
        if self.members.on_discovered(list) {
            self.set_backends();
        }
    }

    /// Reloads the server file if it changed.
    pub(crate) fn reread(&mut self) {
        match self.members.reread() {
            Ok(_) => {}
            // Each change of the file is reported once.
            Err(error) => log::error!("{error:#}; continuing with the previous servers"),
        }
        // Also drops adopted servers that have expired.
        self.set_backends();
    }

    fn set_backends(&mut self) {
        let now = Instant::now();
        let events = self.pool.set_backends(&self.members.list(now), now);
        events.iter().for_each(log_event);
    }

    pub(crate) fn update_checkers(&mut self) {
        let members: Vec<_> = self
            .pool
            .backends()
            .iter()
            .map(|backend| backend.address)
            .collect();
        self.seen.retain(|address, _| members.contains(address));
        self.checkers.keep(&members, &self.settings);
    }

    /// Checks the route and the kernel's settings, which change without notification.
    pub(crate) async fn check_route_and_sysctls(&mut self) {
        let up = self
            .pool
            .backends()
            .iter()
            .filter(|backend| backend.health.class() == Class::Up);
        let mut servers: Vec<_> = up.map(|backend| backend.address).collect();
        if servers.is_empty() {
            servers.extend(self.pool.backends().iter().map(|backend| backend.address));
        }
        let vip = self.settings.service.ip();
        let error = match put_route(&self.handle, vip, self.settings.source, &servers).await {
            Ok((source, changed)) => {
                if changed && let Some(source) = source {
                    log::info!("source address for {vip}: {source}");
                }
                self.source = source;
                source
                    .is_none()
                    .then(|| format!("{vip}: no route: no server is reachable"))
            }
            Err(error) => Some(format!("{error:#}")),
        };
        log_once(&mut self.route_error, error);
        let wrong = sysctl::check()
            .into_iter()
            .map(|wrong| (wrong.name.to_owned(), wrong.found))
            .collect();
        if wrong != self.wrong_sysctls && self.was_present {
            for wrong in sysctl::check() {
                let (name, found, consequence) = (wrong.name, wrong.found, wrong.consequence);
                log::warn!(
                    "`net.ipv4.vs.{name}` is {found}, not {}: {consequence}",
                    wrong.wanted
                );
            }
        }
        self.wrong_sysctls = wrong;
    }

    /// Compares and repairs the table. `true`: retry soon.
    pub(crate) fn reconcile(&mut self) -> bool {
        let now = Instant::now();
        let (again, error) = match self.pass(now) {
            Ok(again) => (again, None),
            Err(error) => (false, Some(format!("{error:#}"))),
        };
        log_once(&mut self.table_error, error);
        again
    }

    fn pass(&mut self, now: Instant) -> anyhow::Result<bool> {
        let actual = match self.table.read(self.pool.service()) {
            Ok(actual) => actual,
            Err(error) => {
                self.publish(&Actual::default(), now);
                // Another program changed the table.
                return if error.is_race() {
                    Ok(true)
                } else {
                    Err(error).context("reading the IPVS table")
                };
            }
        };
        let found = actual.destinations.iter().map(|found| found.address);
        if self.members.adopt(found, now) {
            self.set_backends();
        }
        let wiped = self.was_present && actual.service.is_none();
        let plan = self.pool.plan(&actual, now);
        plan.events.iter().for_each(log_event);
        self.counters.panics += plan
            .events
            .iter()
            .filter(|event| **event == Event::PanicEntered)
            .count() as u64;
        let mode = if self.settings.kill {
            ApplyMode::Full
        } else {
            ApplyMode::KeepFlows
        };
        let done = self.table.apply(&plan, &actual, mode)?;
        if wiped {
            self.counters.foreign_wipes += 1;
            self.last_wipe = Some(now);
            log::warn!(
                "{}: virtual service was removed externally; restored",
                self.settings.service
            );
        }
        let Done {
            changes,
            destroyed,
            expired,
            again,
        } = done;
        for change in &changes {
            *self
                .counters
                .changes
                .entry((*change).to_owned())
                .or_default() += 1;
        }
        self.counters.flows_killed += destroyed as u64;
        self.counters.flows_expired += expired as u64;
        if destroyed > 0 {
            log::info!(
                "{}: closed {destroyed} local connections to dead servers",
                self.settings.service
            );
        }
        let after = if !changes.is_empty() {
            self.table.read(self.pool.service()).unwrap_or(actual)
        } else {
            actual
        };
        self.was_present = after.service.is_some();
        self.publish(&after, now);
        Ok(again || wiped)
    }

    fn publish(&self, actual: &Actual, now: Instant) {
        let mut servers = Status::servers(&self.pool, actual, now);
        for server in &mut servers {
            if let Some(seen) = self.seen.get(&server.address) {
                server.probe_seconds = seen.last;
                server.probes = seen.probes.clone();
                server.transitions = seen.transitions;
            }
        }
        self.shared.set(Status {
            service: Some(self.settings.service),
            present: actual.service.is_some(),
            panic: self.pool.is_panicking(),
            source: self.source,
            servers,
            wrong_sysctls: self.wrong_sysctls.clone(),
            wiped_seconds_ago: self
                .last_wipe
                .map(|at| now.saturating_duration_since(at).as_secs()),
            error: self
                .table_error
                .clone()
                .or_else(|| self.route_error.clone()),
            counters: self.counters.clone(),
            members: self.members.counts(),
        });
    }
}
