//! Checks of lvscare under faults, with keepalived (tuned) on another worker for comparison: the
//! IPVS table, established connections, and connections in progress.
//!
//! Each check starts in a healthy network and leaves one. Times are measured and not checked,
//! because the machine may be emulated and busy.

mod environment;
mod node;
mod scenario;
mod servers;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::balancer::Kind;
use crate::lossy_link::{self, LossyLink};
use crate::net::{Family, Net};
use crate::report::{claim, ms};
use crate::table::{Watcher, uses, uses_only};

use environment::{cleaned, firewall, foreign_services, members, on_control_plane};
use node::{address_change, deleted, killed_in_a_loop, link_flap, takes_over, wiped};
pub(crate) use scenario::Scenario;
use servers::{all_down, all_draining, certificate, draining, frozen, killed, slow, vanished};

/// The timeout of events that take a second or two on an idle machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The time between two requests of a client.
const INTERVAL: Duration = Duration::from_millis(100);

type Check = fn(&mut Scenario) -> anyhow::Result<Value>;

const BESIDE_LOSSY_LINK: [(&str, Check); 18] = [
    ("a daemon takes over without a change", takes_over),
    ("killed: removed, and the others serve all requests", killed),
    (
        "vanished: removed, and its connections end, idle ones too",
        vanished,
    ),
    (
        "frozen: no new connections, and the old ones survive",
        frozen,
    ),
    (
        "500 from readyz: no new connections, and the old ones survive",
        draining,
    ),
    (
        "a server with an expired certificate is removed",
        |scenario| certificate(scenario, "expired"),
    ),
    (
        "a server with a certificate of another authority is removed",
        |scenario| certificate(scenario, "foreign"),
    ),
    ("a server with slow answers stays", slow),
    (
        "a flapping link removes no server and ends no connection",
        link_flap,
    ),
    (
        "a new node address becomes the source address",
        address_change,
    ),
    ("a flushed table is restored", |scenario| {
        wiped(scenario, "ipvsadm -C")
    }),
    (
        "a virtual service that another program deletes is restored",
        deleted,
    ),
    (
        "all servers dead: none is removed, and the first to return is used",
        all_down,
    ),
    ("500 from all: nothing changes", all_draining),
    (
        "lvscare killed in a loop under load: no request fails, no connection ends",
        killed_in_a_loop,
    ),
    ("works behind a firewall that drops input", firewall),
    ("servers follow the EndpointSlice", members),
    (
        "on a control-plane host: its own apiserver first, then the others",
        on_control_plane,
    ),
];

/// These checks keep an emulated machine so busy that its servers answer late, which no balancer
/// can tell from a failure.
const ALONE: [(&str, Check); 2] = [
    ("works beside 10,000 foreign services", foreign_services),
    ("stopping leaves the table, --clean removes it", cleaned),
];

pub(crate) fn main(family: &str) -> anyhow::Result<()> {
    let net = Net {
        testbed: 1,
        family: Family::parse(family)?,
    };
    let mut holds = true;
    let mut scenario = None;
    holds &= claim(
        "starts with CAP_NET_ADMIN only and loads the modules it needs",
        || {
            let (made, facts) = Scenario::new(net)?;
            scenario = Some(made);
            Ok(facts)
        },
    );
    let mut scenario = scenario.context("the other checks need the network")?;
    let scenario = &mut scenario;
    // In parallel with the following checks, in a network of its own.
    let lossy_link = LossyLink::start(
        Net { testbed: 2, ..net },
        &[Kind::Lvscare, Kind::KeepalivedTuned],
    )?;
    for (name, check) in BESIDE_LOSSY_LINK {
        holds &= run_check(scenario, name, check)?;
    }
    holds &= claim(lossy_link::CLAIM, || lossy_link.check());
    drop(lossy_link);
    for (name, check) in ALONE {
        holds &= run_check(scenario, name, check)?;
    }
    ensure!(holds, "a check failed");
    Ok(())
}

/// Runs a check and returns its result. Afterwards the network is healthy.
fn run_check(scenario: &mut Scenario, name: &str, check: Check) -> anyhow::Result<bool> {
    let held = claim(name, || check(scenario));
    if !held {
        scenario.heal();
    }
    scenario.settle()?;
    Ok(held)
}

fn all(weights: &crate::table::Weights) -> bool {
    uses_only(weights, &[1, 2, 3])
}

/// Fails if a request of the worker with lvscare has failed since `since`.
fn no_failures(scenario: &Scenario, since: Instant) -> anyhow::Result<usize> {
    let failures = scenario.prober.failures_since(since);
    ensure!(
        failures.is_empty(),
        "{} requests failed: {failures:?}",
        failures.len()
    );
    Ok(scenario.prober.answered_since(since))
}

/// Waits until lvscare's table no longer uses `master`. Returns the times of both tables.
fn removals(scenario: &Scenario, since: Instant, master: u8) -> anyhow::Result<Value> {
    let out = |weights: &crate::table::Weights| !uses(weights, master);
    scenario
        .table
        .wait("removed from lvscare's table", TIMEOUT, out)?;
    // For comparison only.
    let _ = scenario.keepalived_table.wait(
        "removed from keepalived's table",
        Duration::from_secs(4),
        out,
    );
    let out = |watcher: &Watcher| {
        ms(
            since,
            watcher.first(since, |weights| !uses(weights, master)),
        )
    };
    Ok(json!({"ours_ms": out(&scenario.table), "keepalived_ms": out(&scenario.keepalived_table)}))
}
