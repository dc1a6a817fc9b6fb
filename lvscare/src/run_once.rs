//! The sub-command `run-once`, before `kubeadm join`: sysctls, route, service, healthy servers.
//!
//! Removes nothing: a daemon may run in parallel, and the daemon closes connections.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::join_all;
use rtnetlink::Handle;

use crate::apply::{ApplyMode, Table, put_route};
use crate::pool::health::{Class, Thresholds};
use crate::pool::members::Members;
use crate::pool::{Pool, Rules};
use crate::probe::checker::{HealthChecker, Timing};
use crate::settings::Settings;
use crate::table::changes;
use crate::{route, sysctl};

/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(500);

/// Probe timeout. Longer than the daemon's, because there is no second probe and a starting machine
/// is busy.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// Number of races with other writers before an error.
const RACES: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// At least one server is up.
    Up,
    /// No server is up: all were added.
    NoneUp,
}

/// Sets up sysctls, route and service. With `wait`, retries until a server is up or the time is
/// over.
pub async fn run(settings: &Settings, wait: Option<Duration>) -> anyhow::Result<Outcome> {
    let members = Members::new(settings.sources.clone())?.list(Instant::now());
    let handle = open()?;
    let mut table = Table::default();
    // Loads `ip_vs`, without which its sysctls do not exist.
    let info = table.info().context("opening IPVS")?;
    log::debug!(
        "IPVS {:#x}, {} connection buckets",
        info.version,
        info.connection_table_size
    );
    for wrong in sysctl::set() {
        log::warn!(
            "`net.ipv4.vs.{}` is {}, not {}: {}",
            wrong.name,
            wrong.found,
            wrong.wanted,
            wrong.consequence
        );
    }
    let deadline = Instant::now() + wait.unwrap_or_default();
    loop {
        let (mut pool, outcome) = probe(settings, &members).await;
        let up = servers(&pool, outcome);
        let (source, _) = put_route(&handle, settings.service.ip(), settings.source, &up).await?;
        let reaches = source.map_or_else(
            || "no route to any server yet".to_owned(),
            |source| format!("from {source}"),
        );
        write(&mut table, &mut pool)?;
        let over = Instant::now() >= deadline;
        if outcome == Outcome::Up || over {
            log::info!(
                "{}: {} of {} servers up, {reaches}",
                settings.service,
                up.len(),
                members.len()
            );
            return Ok(outcome);
        }
        log::info!(
            "{}: no healthy server, retrying: {}",
            settings.service,
            causes(&pool)
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// The changes that `run` would make, as text.
pub async fn dry_run(settings: &Settings) -> anyhow::Result<Vec<String>> {
    let members = Members::new(settings.sources.clone())?.list(Instant::now());
    let handle = open()?;
    let mut lines = Vec::new();
    for wrong in sysctl::check() {
        lines.push(format!(
            "set `net.ipv4.vs.{}` to {} (is {})",
            wrong.name, wrong.wanted, wrong.found
        ));
    }
    let (mut pool, outcome) = probe(settings, &members).await;
    let addresses: Vec<_> = servers(&pool, outcome)
        .iter()
        .map(std::net::SocketAddr::ip)
        .collect();
    let source = match settings.source {
        Some(source) => Some(source),
        None => route::source_towards(&handle, &addresses).await?,
    };
    let vip = settings.service.ip();
    if let Some(source) = source
        && route::current(&handle, vip).await? != Some(source)
    {
        lines.push(format!(
            "route `local {vip} dev lo table local src {source}`"
        ));
    }
    let actual = Table::default()
        .read(pool.service())
        .context("reading the IPVS table")?;
    let plan = pool.plan(&actual, Instant::now());
    lines.extend(
        changes(&plan.desired, &actual)
            .iter()
            .map(|change| format!("{change:?}")),
    );
    Ok(lines)
}

/// Removes our service and our route, and nothing else.
pub async fn clean(service: &crate::ipvs::Service, vip: std::net::IpAddr) -> anyhow::Result<()> {
    // The route first: without the service this host would refuse connections to the local address.
    route::remove(&open()?, vip).await?;
    match Table::default().remove(service) {
        // Without IPVS there is no service.
        Ok(()) | Err(crate::ipvs::Error::Absent) => Ok(()),
        Err(error) => Err(error).context("removing the virtual server"),
    }
}

/// A connection to rtnetlink on the current runtime.
fn open() -> anyhow::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection().context("opening rtnetlink")?;
    tokio::spawn(connection);
    Ok(handle)
}

/// One round over all servers at the same time.
async fn probe(settings: &Settings, members: &[(std::net::SocketAddr, u32)]) -> (Pool, Outcome) {
    // The first verdict counts, because there is no second round.
    let thresholds = Thresholds {
        rise: 1,
        fall: 1,
        ..settings.rules.thresholds
    };
    let rules = Rules {
        thresholds,
        ..settings.rules
    };
    let mut pool = Pool::new(settings.service(), rules, members, Instant::now());
    let rounds = members.iter().map(|&(address, _)| {
        let health_request = std::sync::Arc::clone(&settings.health_request);
        let timing = Timing {
            fresh: ANSWER_TIMEOUT,
            ..settings.timing
        };
        let mut watch = HealthChecker::new(address, &settings.path, health_request, timing);
        async move { watch.round().await }
    });
    for report in join_all(rounds).await {
        pool.observe(
            report.address,
            &report.verdict,
            report.began.into(),
            report.ended.into(),
        );
    }
    let up = pool
        .backends()
        .iter()
        .any(|member| member.health.class() == Class::Up);
    (pool, if up { Outcome::Up } else { Outcome::NoneUp })
}

/// The servers that are up; with none, all.
fn servers(pool: &Pool, outcome: Outcome) -> Vec<std::net::SocketAddr> {
    let wanted = pool
        .backends()
        .iter()
        .filter(|member| outcome == Outcome::NoneUp || member.health.class() == Class::Up);
    wanted.map(|member| member.address).collect()
}

fn write(table: &mut Table, pool: &mut Pool) -> anyhow::Result<()> {
    for _ in 0..RACES {
        let actual = table
            .read(pool.service())
            .context("reading the IPVS table")?;
        let plan = pool.plan(&actual, Instant::now());
        if !table.apply(&plan, &actual, ApplyMode::Additive)?.again {
            return Ok(());
        }
    }
    anyhow::bail!(
        "the IPVS table changed under each of {RACES} attempts to write it; who else keeps `{:?}`?",
        pool.service().identity
    )
}

fn causes(pool: &Pool) -> String {
    let cause = |member: &crate::pool::Backend| {
        format!(
            "{} {}",
            member.address,
            member.cause.as_deref().unwrap_or("not asked")
        )
    };
    pool.backends()
        .iter()
        .map(cause)
        .collect::<Vec<_>>()
        .join(", ")
}
