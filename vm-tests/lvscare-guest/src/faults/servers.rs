//! Faults of servers: their processes, hosts, answers and certificates.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::{Scenario, TIMEOUT, all, no_failures, removals};
use crate::client::{Flow, request};
use crate::report::ms;
use crate::table::{uses, uses_only};

pub(super) fn killed(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let (busy, idle) = (scenario.flow(1, true)?, scenario.flow(2, true)?);
    let since = Instant::now();
    scenario.testbed.master(1).kill()?;
    let facts = removals(scenario, since, 1)?;
    let gone = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let served = no_failures(scenario, gone)?;
    ensure!(
        busy.ended().is_some(),
        "a connection to a dead process survives"
    );
    idle.works()
        .context("using a connection to another server")?;
    let weights = scenario.table.now();
    ensure!(
        weights.is_some_and(|weights| !weights.contains_key(&1)),
        "the server was not removed"
    );
    scenario.testbed.master(1).start()?;
    let back = Instant::now();
    scenario
        .table
        .wait("the server is used again", TIMEOUT, all)?;
    let back = ms(back, scenario.table.first(back, all));
    Ok(json!({"out": facts, "served": served, "back_ms": back}))
}

pub(super) fn vanished(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let (busy, idle) = (scenario.flow(2, true)?, scenario.flow(2, false)?);
    let (target, pod) = (scenario.target(), scenario.pod.clone());
    let from_pod = Flow::open(&pod, target, 2, true)?;
    let other = scenario.flow(3, true)?;
    let keepalived_table = scenario.testbed.workers[1].netns.clone();
    let their_idle = Flow::open(&keepalived_table, target, 2, false)?;
    let since = Instant::now();
    scenario.testbed.master(2).vanish()?;
    // Connections in progress: at least one of three goes to the vanished server.
    let opening: Vec<_> = (0..3)
        .map(|_| {
            let netns = scenario.netns();
            std::thread::spawn(move || {
                let answered = netns.run(|| request(target, TIMEOUT));
                (Instant::now(), answered.map_err(|error| error.kind()))
            })
        })
        .collect();
    let out = removals(scenario, since, 2)?;
    let deadline = Instant::now() + TIMEOUT;
    let mut ends = Vec::new();
    for (name, flow) in [("busy", &busy), ("idle", &idle), ("pod_busy", &from_pod)] {
        while flow.ended().is_none() {
            ensure!(
                Instant::now() < deadline,
                "the {name} connection does not end"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        let (at, how) = flow.ended().context("it has ended")?;
        ends.push(json!({"flow": name, "ms": ms(since, Some(at)), "how": how.to_string()}));
        if name == "idle" {
            ensure!(
                how == ErrorKind::ConnectionAborted,
                "the idle connection ended with {how}"
            );
        }
    }
    other
        .works()
        .context("using a connection to another server")?;
    let mut connects = Vec::new();
    for thread in opening {
        let Ok((at, answered)) = thread.join() else {
            bail!("a client panicked")
        };
        let by = answered.map_err(|how| anyhow::anyhow!("a connection in progress: {how}"))?;
        ensure!(by != 2, "the vanished server answered");
        connects.push(ms(since, Some(at)));
    }
    let stuck = their_idle.ended().is_none();
    scenario.testbed.master(2).appear()?;
    let back = Instant::now();
    scenario
        .table
        .wait("the server is used again", TIMEOUT, all)?;
    let back = ms(back, scenario.table.first(back, all));
    Ok(
        json!({"out": out, "ends": ends, "connects_ms": connects, "keepalived_idle_stuck": stuck, "back_ms": back}),
    )
}

pub(super) fn frozen(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let flow = scenario.flow(3, true)?;
    let since = Instant::now();
    scenario.testbed.master(3).freeze()?;
    let out = removals(scenario, since, 3)?;
    let drained = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let served = no_failures(scenario, drained)?;
    let weights = scenario.table.now();
    ensure!(
        weights.as_ref().and_then(|weights| weights.get(&3)) == Some(&0),
        "not drained: {weights:?}"
    );
    scenario.testbed.master(3).thaw()?;
    flow.works().context("using the old connection")?;
    let back = Instant::now();
    scenario
        .table
        .wait("the server is used again", TIMEOUT, all)?;
    Ok(json!({"out": out, "served": served, "back_ms": ms(back, scenario.table.first(back, all))}))
}

pub(super) fn draining(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let (busy, idle) = (scenario.flow(1, true)?, scenario.flow(1, false)?);
    let since = Instant::now();
    scenario.testbed.master(1).behave("500")?;
    let out = removals(scenario, since, 1)?;
    std::thread::sleep(Duration::from_secs(2));
    busy.works()?;
    ensure!(idle.ended().is_none(), "the idle connection ended");
    let served = no_failures(scenario, since)?;
    scenario.testbed.master(1).behave("200")?;
    let back = Instant::now();
    scenario
        .table
        .wait("the server is used again", TIMEOUT, all)?;
    Ok(json!({"out": out, "served": served, "back_ms": ms(back, scenario.table.first(back, all))}))
}

pub(super) fn certificate(scenario: &mut Scenario, kind: &str) -> anyhow::Result<Value> {
    let since = Instant::now();
    scenario.testbed.master(2).restart_with(kind)?;
    scenario
        .table
        .wait("the server is removed", TIMEOUT, |weights| {
            !uses(weights, 2)
        })?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(!uses(&scenario.table.now(), 2), "the server is used again");
    // For comparison only: keepalived detects the restart and needs a while to use the server
    // again.
    let _ = scenario.keepalived_table.wait(
        "the server is used again",
        Duration::from_secs(2),
        |weights| uses(weights, 2),
    );
    let why = if kind == "expired" {
        "expired"
    } else {
        "BadSignature"
    };
    let deadline = Instant::now() + TIMEOUT;
    while !scenario.fetch("/status")?.contains(why) {
        ensure!(
            Instant::now() < deadline,
            "the status has no reason `{why}`"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let keepalived_uses_it = uses(&scenario.keepalived_table.now(), 2);
    scenario.testbed.master(2).restart_with("good")?;
    scenario
        .table
        .wait("the server is used again", TIMEOUT, all)?;
    Ok(
        json!({"out_ms": ms(since, scenario.table.first(since, |weights| !uses(weights, 2))), "keepalived_uses_it": keepalived_uses_it}),
    )
}

pub(super) fn slow(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let since = Instant::now();
    scenario.testbed.master(1).behave("slow 150")?;
    std::thread::sleep(Duration::from_secs(4));
    let removals = scenario.table.removals(since);
    ensure!(removals == 0, "removed {removals} times");
    scenario.testbed.master(1).behave("slow 2500")?;
    let since = Instant::now();
    let out = self::removals(scenario, since, 1)?;
    scenario.testbed.master(1).behave("200")?;
    scenario
        .table
        .wait("the server is used again", TIMEOUT, all)?;
    Ok(json!({"out_at_2500_ms": out}))
}

pub(super) fn all_down(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let since = Instant::now();
    for n in 1..=3 {
        scenario.testbed.master(n).kill()?;
    }
    let deadline = Instant::now() + TIMEOUT;
    while scenario.metric("lvscare_panic ")? < 1.0 {
        ensure!(Instant::now() < deadline, "lvscare_panic is not set");
        std::thread::sleep(Duration::from_millis(20));
    }
    scenario.table.wait("all servers are used", TIMEOUT, all)?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(
        all(&scenario.table.now()),
        "at the end: {:?}",
        scenario.table.now()
    );
    let empty = |weights: &crate::table::Weights| !(1..=3).any(|n| uses(weights, n));
    ensure!(
        scenario.table.first(since, empty).is_none(),
        "the table was empty for a moment"
    );
    let back = Instant::now();
    scenario.testbed.master(2).start()?;
    let alone = |weights: &crate::table::Weights| uses_only(weights, &[2]);
    scenario
        .table
        .wait("only the returned server is used", TIMEOUT, alone)?;
    let alone = ms(back, scenario.table.first(back, alone));
    scenario.testbed.master(1).start()?;
    scenario.testbed.master(3).start()?;
    scenario
        .table
        .wait("all servers are used again", TIMEOUT, all)?;
    Ok(json!({"alone_ms": alone}))
}

pub(super) fn all_draining(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let flow = scenario.flow(1, true)?;
    let since = Instant::now();
    for n in 1..=3 {
        scenario.testbed.master(n).behave("500")?;
    }
    std::thread::sleep(Duration::from_secs(3));
    ensure!(
        all(&scenario.table.now()),
        "the table: {:?}",
        scenario.table.now()
    );
    for n in 1..=3 {
        scenario.testbed.master(n).behave("200")?;
    }
    scenario
        .table
        .wait("all servers are used again", TIMEOUT, all)?;
    flow.works()?;
    let served = no_failures(scenario, since)?;
    Ok(json!({"served": served}))
}
