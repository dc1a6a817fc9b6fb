//! The daemon: hears from the watches, compares what should be with what is, and repairs it, twice a second and on
//! every event.
//!
//! Keeps nothing that a restart would need: the kernel's table is the memory. Whatever fails is tried again in
//! half a second; the one way out is a signal, which leaves everything in place.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::alarm;
use rtnetlink::{Handle, MulticastGroup};
use signal_hook::consts::SIGALRM;
use signal_hook::flag::register_conditional_shutdown;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};

use crate::beat::Beat;
use crate::cli::Settings;
use crate::fleet::{Event, Fleet};
use crate::flows;
use crate::health::Class;
use crate::histogram::Histogram;
use crate::kernel::{Done, Reach, Table, put_route};
use crate::members::Members;
use crate::server::{self, Shared};
use crate::status::{Counters, Status};
use crate::sysctl;
use crate::table::Actual;
use crate::watch::Report;
use crate::watches::Watches;

/// Between two looks at the table, which nobody tells us of: whoever empties it is undone within this time.
const ROUND: Duration = Duration::from_millis(500);

/// Every so many rounds the rest is looked at, too.
const ROUNDS_TO_LOOK_AROUND: u32 = 2;

/// After a race or a foreign wipe, which may not come alone.
const SOON: Duration = Duration::from_millis(100);

/// Seconds without a round after which we end (SIGALRM), for kubelet or systemd to start us anew.
const WATCHDOG: u32 = 10;

/// `EX_SOFTWARE`: the main loop was stuck.
const STUCK: i32 = 70;

/// Keeps until SIGTERM or SIGINT.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
    ];
    let (connection, handle, mut links) =
        rtnetlink::new_multicast_connection(&groups).context("opening rtnetlink")?;
    tokio::spawn(connection);
    // By a handler and not by the signal itself, which the kernel keeps from the first process of a container.
    let always = Arc::new(AtomicBool::new(true));
    register_conditional_shutdown(SIGALRM, STUCK, always).context("arming the watchdog")?;
    // A mask is inherited over exec, and a watchdog whose starter had SIGALRM blocked would never bark.
    let mut alarm_alone = SigSet::empty();
    alarm_alone.add(Signal::SIGALRM);
    alarm_alone
        .thread_unblock()
        .context("unblocking SIGALRM for the watchdog")?;
    // From here on, so that nothing before the first round can hang unwatched, and `/livez` never speaks for a daemon
    // that nobody watches.
    alarm::set(WATCHDOG);
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let (sender, mut reports) = mpsc::channel(64);
    let (lists_sender, mut lists) = mpsc::channel(4);
    if let Some(discovery) = settings.discovery.clone() {
        tokio::spawn(discovery.run(lists_sender));
    }
    if settings.kill
        && let Err(error) = flows::prepare(settings.service)
    {
        log::warn!(
            "{error:#}; idle connections to dead servers will hang until their owners use them"
        );
    }
    let members = Members::new(settings.sources.clone())?;
    let beat = Beat::start();
    let mut care = Care::new(settings, handle, members, Watches::new(sender, beat));
    care.listen().await;
    let mut next_round = tokio::time::Instant::now();
    let mut round = 0u32;
    let mut again = false;
    let mut look: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = sleep_until(next_round) => {
                next_round = beat.next(ROUND);
                alarm::set(WATCHDOG);
                round = round.wrapping_add(1);
                if round % ROUNDS_TO_LOOK_AROUND == 1 {
                    care.look_around().await;
                    care.reread();
                }
            }
            Some(report) = reports.recv() => {
                if !care.hear(&report) && care.fleet.is_quiet() {
                    continue;
                }
            }
            Some(list) = lists.recv() => care.told(list),
            // They come in swarms; one look soon after the first serves them all.
            Some(_) = links.next() => {
                look.get_or_insert_with(|| tokio::time::Instant::now() + SOON);
                continue;
            }
            () = sleep_until(look.unwrap_or_else(tokio::time::Instant::now)), if look.is_some() => {
                look = None;
                care.look_around().await;
            }
            () = sleep(SOON), if again => {}
        }
        again = care.reconcile();
        care.keep_watches();
    }
    alarm::cancel();
    log::info!("stopping; the table and the route stay");
    Ok(())
}

struct Care {
    settings: Settings,
    handle: Handle,
    table: Table,
    fleet: Fleet,
    members: Members,
    watches: Watches,
    source: Option<IpAddr>,
    /// Our service was in the table at the last look.
    was_present: bool,
    last_wipe: Option<Instant>,
    counters: Counters,
    seen: BTreeMap<SocketAddr, Seen>,
    wrong_sysctls: BTreeMap<String, String>,
    /// What is wrong with the route and with the table, said once each.
    route_error: Option<String>,
    table_error: Option<String>,
    shared: Shared,
}

/// What we remember of one server for the metrics.
#[derive(Default)]
struct Seen {
    last: f64,
    probes: Histogram,
    transitions: u64,
}

impl Care {
    fn new(settings: Settings, handle: Handle, members: Members, watches: Watches) -> Self {
        let now = Instant::now();
        let fleet = Fleet::new(settings.service(), settings.rules, &members.list(now), now);
        Self {
            settings,
            handle,
            table: Table::default(),
            fleet,
            members,
            watches,
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

    async fn listen(&self) {
        let address = self.settings.status_address;
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tokio::spawn(server::serve(listener, self.shared.clone()));
            }
            // Nobody's connections depend on it.
            Err(error) => {
                log::warn!(
                    "listening on `{address}`: {error}, going on without status and metrics"
                );
            }
        }
    }

    /// Takes in what a watch found. `true`: it changed a class.
    fn hear(&mut self, report: &Report) -> bool {
        let (began, ended) = (report.began, report.ended);
        let seen = self.seen.entry(report.address).or_default();
        seen.last = (ended - began).as_secs_f64();
        seen.probes.add(seen.last);
        let Some(event) =
            self.fleet
                .observe(report.address, &report.verdict, began.into(), ended.into())
        else {
            return false;
        };
        seen.transitions += 1;
        log_event(&event);
        true
    }

    /// Takes in the cluster's list.
    fn told(&mut self, list: Vec<SocketAddr>) {
        if self.members.hear(list) {
            self.set_members();
        }
    }

    /// Looks whether the file has changed.
    fn reread(&mut self) {
        match self.members.reread() {
            Ok(_) => {}
            // Each change of the file is looked at once; what is wrong with it stays said until the next.
            Err(error) => log::error!("{error:#}; going on with the servers it named before"),
        }
        // Also for what runs out by itself.
        self.set_members();
    }

    fn set_members(&mut self) {
        let now = Instant::now();
        let events = self.fleet.set_members(&self.members.list(now), now);
        events.iter().for_each(log_event);
    }

    fn keep_watches(&mut self) {
        let members: Vec<_> = self
            .fleet
            .members()
            .iter()
            .map(|member| member.address)
            .collect();
        self.seen.retain(|address, _| members.contains(address));
        self.watches.keep(&members, &self.settings);
    }

    /// What changes without telling: the route, and the kernel's settings.
    async fn look_around(&mut self) {
        let up = self
            .fleet
            .members()
            .iter()
            .filter(|member| member.health.class() == Class::Up);
        let mut servers: Vec<_> = up.map(|member| member.address).collect();
        if servers.is_empty() {
            servers.extend(self.fleet.members().iter().map(|member| member.address));
        }
        let vip = self.settings.service.ip();
        let error = match put_route(&self.handle, vip, self.settings.source, &servers).await {
            Ok((source, changed)) => {
                if changed && let Some(source) = source {
                    log::info!("{vip}: connections come from {source}");
                }
                self.source = source;
                source
                    .is_none()
                    .then(|| format!("{vip}: no route, for no server can be reached"))
            }
            Err(error) => Some(format!("{error:#}")),
        };
        say_once(&mut self.route_error, error);
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

    /// Compares and repairs the table. `true`: look again soon.
    fn reconcile(&mut self) -> bool {
        let now = Instant::now();
        let (again, error) = match self.pass(now) {
            Ok(again) => (again, None),
            Err(error) => (false, Some(format!("{error:#}"))),
        };
        say_once(&mut self.table_error, error);
        again
    }

    fn pass(&mut self, now: Instant) -> anyhow::Result<bool> {
        let actual = match self.table.read(self.fleet.service()) {
            Ok(actual) => actual,
            Err(error) => {
                self.publish(&Actual::default(), now);
                // Somebody else was writing.
                return if error.is_race() {
                    Ok(true)
                } else {
                    Err(error).context("reading the IPVS table")
                };
            }
        };
        let found = actual.destinations.iter().map(|found| found.address);
        if self.members.adopt(found, now) {
            self.set_members();
        }
        let wiped = self.was_present && actual.service.is_none();
        let plan = self.fleet.plan(&actual, now);
        plan.events.iter().for_each(log_event);
        self.counters.panics += plan
            .events
            .iter()
            .filter(|event| **event == Event::PanicEntered)
            .count() as u64;
        let reach = if self.settings.kill {
            Reach::Full
        } else {
            Reach::KeepFlows
        };
        let done = self.table.apply(&plan, &actual, reach)?;
        if wiped {
            self.counters.foreign_wipes += 1;
            self.last_wipe = Some(now);
            log::warn!(
                "{}: somebody removed the virtual server; it is back",
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
                "{}: ended {destroyed} dead connections of this host",
                self.settings.service
            );
        }
        let after = if !changes.is_empty() {
            self.table.read(self.fleet.service()).unwrap_or(actual)
        } else {
            actual
        };
        self.was_present = after.service.is_some();
        self.publish(&after, now);
        Ok(again || wiped)
    }

    fn publish(&self, actual: &Actual, now: Instant) {
        let mut servers = Status::servers(&self.fleet, actual, now);
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
            panic: self.fleet.is_panicking(),
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

/// Logs an error when it comes, when it changes, and when it goes: never every second.
fn say_once(last: &mut Option<String>, error: Option<String>) {
    match (&*last, &error) {
        (last, Some(error)) if last.as_ref() != Some(error) => log::error!("{error}"),
        (Some(last), None) => log::info!("no longer so: {last}"),
        _ => {}
    }
    *last = error;
}

fn log_event(event: &Event) {
    match event {
        Event::Transition {
            address,
            from,
            to,
            cause,
            after,
        } => {
            let cause = cause
                .as_deref()
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            log::info!(
                "{address}: {to}, was {from} for {:.1} s{cause}",
                after.as_secs_f64()
            );
        }
        Event::Joined(address) => log::info!("{address}: new member"),
        Event::Left(address) => log::info!("{address}: member no more"),
        Event::PanicEntered => log::error!("no server is up: all are tried, nothing is deleted"),
        Event::PanicLeft => log::info!("a server is up again"),
    }
}
