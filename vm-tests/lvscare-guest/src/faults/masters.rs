//! What happens to masters: their processes, hosts, answers and certificates.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::{PATIENCE, World, all, falls, no_failures};
use crate::client::{Flow, who};
use crate::report::ms;
use crate::table::{uses, uses_only};

pub(super) fn killed(world: &mut World) -> anyhow::Result<Value> {
    let (busy, idle) = (world.flow(1, true)?, world.flow(2, true)?);
    let since = Instant::now();
    world.testbed.master(1).kill()?;
    let facts = falls(world, since, 1)?;
    let gone = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let served = no_failures(world, gone)?;
    ensure!(busy.ended().is_some(), "a flow to a dead process lives");
    idle.works().context("a flow to another master")?;
    let weights = world.table.now();
    ensure!(
        weights.is_some_and(|weights| !weights.contains_key(&1)),
        "it was not deleted"
    );
    world.testbed.master(1).start()?;
    let back = Instant::now();
    world.table.wait("back", PATIENCE, all)?;
    let back = ms(back, world.table.first(back, all));
    Ok(json!({"out": facts, "served": served, "back_ms": back}))
}

pub(super) fn vanished(world: &mut World) -> anyhow::Result<Value> {
    let (busy, idle) = (world.flow(2, true)?, world.flow(2, false)?);
    let (target, pod) = (world.target(), world.pod.clone());
    let from_pod = Flow::open(&pod, target, 2, true)?;
    let other = world.flow(3, true)?;
    let theirs = world.testbed.workers[1].netns.clone();
    let their_idle = Flow::open(&theirs, target, 2, false)?;
    let since = Instant::now();
    world.testbed.master(2).vanish()?;
    // Connections under way: at least one of three goes to the master that is no longer there.
    let opening: Vec<_> = (0..3)
        .map(|_| {
            let netns = world.ours();
            std::thread::spawn(move || {
                let answered = netns.run(|| who(target, PATIENCE));
                (Instant::now(), answered.map_err(|error| error.kind()))
            })
        })
        .collect();
    let out = falls(world, since, 2)?;
    let deadline = Instant::now() + PATIENCE;
    let mut ends = Vec::new();
    for (name, flow) in [("busy", &busy), ("idle", &idle), ("pod_busy", &from_pod)] {
        while flow.ended().is_none() {
            ensure!(Instant::now() < deadline, "the {name} flow is stuck");
            std::thread::sleep(Duration::from_millis(10));
        }
        let (at, how) = flow.ended().context("just seen")?;
        ends.push(json!({"flow": name, "ms": ms(since, Some(at)), "how": how.to_string()}));
        if name == "idle" {
            ensure!(how == ErrorKind::ConnectionAborted, "the idle flow: {how}");
        }
    }
    other.works().context("a flow to another master")?;
    let mut connects = Vec::new();
    for thread in opening {
        let Ok((at, answered)) = thread.join() else {
            bail!("a client panicked")
        };
        let by = answered.map_err(|how| anyhow::anyhow!("a connection under way: {how}"))?;
        ensure!(by != 2, "answered by nobody");
        connects.push(ms(since, Some(at)));
    }
    let stuck = their_idle.ended().is_none();
    world.testbed.master(2).appear()?;
    let back = Instant::now();
    world.table.wait("back", PATIENCE, all)?;
    let back = ms(back, world.table.first(back, all));
    Ok(
        json!({"out": out, "ends": ends, "connects_ms": connects, "keepalived_idle_stuck": stuck, "back_ms": back}),
    )
}

pub(super) fn frozen(world: &mut World) -> anyhow::Result<Value> {
    let flow = world.flow(3, true)?;
    let since = Instant::now();
    world.testbed.master(3).freeze()?;
    let out = falls(world, since, 3)?;
    let drained = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let served = no_failures(world, drained)?;
    let weights = world.table.now();
    ensure!(
        weights.as_ref().and_then(|weights| weights.get(&3)) == Some(&0),
        "not drained but {weights:?}"
    );
    world.testbed.master(3).thaw()?;
    flow.works().context("the old flow")?;
    let back = Instant::now();
    world.table.wait("back", PATIENCE, all)?;
    Ok(json!({"out": out, "served": served, "back_ms": ms(back, world.table.first(back, all))}))
}

pub(super) fn draining(world: &mut World) -> anyhow::Result<Value> {
    let (busy, idle) = (world.flow(1, true)?, world.flow(1, false)?);
    let since = Instant::now();
    world.testbed.master(1).behave("500")?;
    let out = falls(world, since, 1)?;
    std::thread::sleep(Duration::from_secs(2));
    busy.works()?;
    ensure!(idle.ended().is_none(), "the idle flow ended");
    let served = no_failures(world, since)?;
    world.testbed.master(1).behave("200")?;
    let back = Instant::now();
    world.table.wait("back", PATIENCE, all)?;
    Ok(json!({"out": out, "served": served, "back_ms": ms(back, world.table.first(back, all))}))
}

pub(super) fn certificate(world: &mut World, kind: &str) -> anyhow::Result<Value> {
    let since = Instant::now();
    world.testbed.master(2).restart_with(kind)?;
    world
        .table
        .wait("out", PATIENCE, |weights| !uses(weights, 2))?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(!uses(&world.table.now(), 2), "it came back");
    // For comparison only; it saw the restart, and needs a while to take the server back.
    let _ = world
        .theirs
        .wait("back", Duration::from_secs(2), |weights| uses(weights, 2));
    let why = if kind == "expired" {
        "expired"
    } else {
        "BadSignature"
    };
    let deadline = Instant::now() + PATIENCE;
    while !world.fetch("/status")?.contains(why) {
        ensure!(Instant::now() < deadline, "the status does not say `{why}`");
        std::thread::sleep(Duration::from_millis(50));
    }
    let keepalived_uses_it = uses(&world.theirs.now(), 2);
    world.testbed.master(2).restart_with("good")?;
    world.table.wait("back", PATIENCE, all)?;
    Ok(
        json!({"out_ms": ms(since, world.table.first(since, |weights| !uses(weights, 2))), "keepalived_uses_it": keepalived_uses_it}),
    )
}

pub(super) fn slow(world: &mut World) -> anyhow::Result<Value> {
    let since = Instant::now();
    world.testbed.master(1).behave("slow 150")?;
    std::thread::sleep(Duration::from_secs(4));
    let falls = world.table.falls(since);
    ensure!(falls == 0, "taken out {falls} times");
    world.testbed.master(1).behave("slow 2500")?;
    let since = Instant::now();
    let out = self::falls(world, since, 1)?;
    world.testbed.master(1).behave("200")?;
    world.table.wait("back", PATIENCE, all)?;
    Ok(json!({"out_at_2500_ms": out}))
}

pub(super) fn all_down(world: &mut World) -> anyhow::Result<Value> {
    let since = Instant::now();
    for n in 1..=3 {
        world.testbed.master(n).kill()?;
    }
    let deadline = Instant::now() + PATIENCE;
    while world.metric("lvscare_panic ")? < 1.0 {
        ensure!(Instant::now() < deadline, "no panic");
        std::thread::sleep(Duration::from_millis(20));
    }
    world.table.wait("all are tried", PATIENCE, all)?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(
        all(&world.table.now()),
        "in the end {:?}",
        world.table.now()
    );
    let empty = |weights: &crate::table::Weights| !(1..=3).any(|n| uses(weights, n));
    ensure!(
        world.table.first(since, empty).is_none(),
        "for a moment nobody was used"
    );
    let back = Instant::now();
    world.testbed.master(2).start()?;
    let alone = |weights: &crate::table::Weights| uses_only(weights, &[2]);
    world
        .table
        .wait("the one that is back is used alone", PATIENCE, alone)?;
    let alone = ms(back, world.table.first(back, alone));
    world.testbed.master(1).start()?;
    world.testbed.master(3).start()?;
    world.table.wait("all back", PATIENCE, all)?;
    Ok(json!({"alone_ms": alone}))
}

pub(super) fn all_draining(world: &mut World) -> anyhow::Result<Value> {
    let flow = world.flow(1, true)?;
    let since = Instant::now();
    for n in 1..=3 {
        world.testbed.master(n).behave("500")?;
    }
    std::thread::sleep(Duration::from_secs(3));
    ensure!(
        all(&world.table.now()),
        "the table: {:?}",
        world.table.now()
    );
    for n in 1..=3 {
        world.testbed.master(n).behave("200")?;
    }
    world.table.wait("all back", PATIENCE, all)?;
    flow.works()?;
    let served = no_failures(world, since)?;
    Ok(json!({"served": served}))
}
