//! Our worker and keepalived's (tuned), the same masters, the same fault at the same instant: what becomes of the table,
//! of connections, and of connections under way.
//!
//! Each claim starts from a network where all is well, and leaves one. Times are facts, not claims: the machine may be
//! emulated and busy.

mod masters;
mod node;
mod surroundings;
mod world;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::balancer::Kind;
use crate::lossy_link::{self, LossyLink};
use crate::net::{Family, Net};
use crate::report::{claim, ms};
use crate::table::{Watcher, uses, uses_only};

use masters::{all_down, all_draining, certificate, draining, frozen, killed, slow, vanished};
use node::{address_change, deleted, killed_in_a_loop, link_flap, takes_over, wiped};
use surroundings::{cleaned, crowded, firewall, members, on_a_master};
pub(crate) use world::World;

/// For what takes a second or two on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often the clients ask.
const EVERY: Duration = Duration::from_millis(100);

type Prove = fn(&mut World) -> anyhow::Result<Value>;

const BESIDE_THE_STORM: [(&str, Prove); 18] = [
    ("a daemon takes over without a change", takes_over),
    ("killed: out, and all requests served by the others", killed),
    ("vanished: out, and its flows end, idle ones too", vanished),
    (
        "frozen: no new connections, and the old ones live on",
        frozen,
    ),
    (
        "500 from readyz: no new connections, and the old ones live on",
        draining,
    ),
    ("an expired certificate is no apiserver", |world| {
        certificate(world, "expired")
    }),
    ("a stranger's certificate is no apiserver", |world| {
        certificate(world, "stranger")
    }),
    ("slow answers are answers", slow),
    (
        "a link that flaps deletes nobody and ends no flow",
        link_flap,
    ),
    ("a new node address is the new source", address_change),
    ("a flushed table is put back", |world| {
        wiped(world, "ipvsadm -C")
    }),
    ("a service deleted by another is put back", deleted),
    (
        "all masters dead: none deleted, the first back is used",
        all_down,
    ),
    ("500 from all: nothing changes", all_draining),
    (
        "killed in a loop under load: no request fails, no flow ends",
        killed_in_a_loop,
    ),
    ("behind a firewall that drops input", firewall),
    ("members come and go with the EndpointSlice", members),
    ("on a master: itself first, then the others", on_a_master),
];

/// It keeps an emulated machine so busy that the masters in it answer late, which no balancer can tell from sickness.
const ALONE: [(&str, Prove); 2] = [
    ("beside 10,000 services of others", crowded),
    ("stopping leaves the table, clean removes it", cleaned),
];

pub(crate) fn main(family: &str) -> anyhow::Result<()> {
    let net = Net {
        testbed: 1,
        family: Family::parse(family)?,
    };
    let mut holds = true;
    let mut world = None;
    holds &= claim(
        "starts with NET_ADMIN alone and loads what it needs",
        || {
            let (made, facts) = World::new(net)?;
            world = Some(made);
            Ok(facts)
        },
    );
    let mut world = world.context("nothing can be shown without a world")?;
    let world = &mut world;
    // Beside all that follows, in a network of its own.
    let lossy_link = LossyLink::start(
        Net { testbed: 2, ..net },
        &[Kind::Lvscare, Kind::KeepalivedTuned],
    )?;
    for (name, prove) in BESIDE_THE_STORM {
        holds &= prove_one(world, name, prove)?;
    }
    holds &= claim(lossy_link::CLAIM, || lossy_link.judge());
    drop(lossy_link);
    for (name, prove) in ALONE {
        holds &= prove_one(world, name, prove)?;
    }
    ensure!(holds, "not all claims hold");
    Ok(())
}

/// Whether it held; the world is whole afterwards.
fn prove_one(world: &mut World, name: &str, prove: Prove) -> anyhow::Result<bool> {
    let held = claim(name, || prove(world));
    if !held {
        world.heal();
    }
    world.settle()?;
    Ok(held)
}

fn all(weights: &crate::table::Weights) -> bool {
    uses_only(weights, &[1, 2, 3])
}

/// No request of our worker failed since.
fn no_failures(world: &World, since: Instant) -> anyhow::Result<usize> {
    let failures = world.prober.failures_since(since);
    ensure!(
        failures.is_empty(),
        "{} requests failed: {failures:?}",
        failures.len()
    );
    Ok(world.prober.answered_since(since))
}

/// Waits until our table no longer uses `master`, and says when both tables did not.
fn falls(world: &World, since: Instant, master: u8) -> anyhow::Result<Value> {
    let out = |weights: &crate::table::Weights| !uses(weights, master);
    world.table.wait("out of our table", PATIENCE, out)?;
    // For comparison only.
    let _ = world
        .theirs
        .wait("out of keepalived's", Duration::from_secs(4), out);
    let out = |watcher: &Watcher| {
        ms(
            since,
            watcher.first(since, |weights| !uses(weights, master)),
        )
    };
    Ok(json!({"ours_ms": out(&world.table), "keepalived_ms": out(&world.theirs)}))
}
