//! What happens to the node and to what lvscare keeps on it: links, addresses, the table, the daemon itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lvscare::ipvs::{Identity, Ipvs, Service};
use serde_json::{Value, json};

use super::{PATIENCE, World, all, no_failures};
use crate::client::{Prober, who};
use crate::net::Family;
use crate::report::ms;
use crate::table;

pub(super) fn takes_over(world: &mut World) -> anyhow::Result<Value> {
    world.settle()?;
    std::thread::sleep(Duration::from_secs(1));
    let changes = world.metric("lvscare_reconcile_ops_total")?;
    ensure!(changes == 0.0, "it made {changes} changes");
    ensure!(world.fetch("/livez")?.contains(" 200 "), "it is not alive");
    let wrong = world.metric("lvscare_sysctl_wrong")?;
    ensure!(wrong == 0.0, "{wrong} settings are wrong");
    let balancer = &world.testbed.ours().balancer;
    let (threads, [rss, pss]) = (balancer.threads(), balancer.memory());
    ensure!(threads == 1, "{threads} threads");
    Ok(json!({"rss_kib": rss, "pss_kib": pss}))
}

pub(super) fn link_flap(world: &mut World) -> anyhow::Result<Value> {
    let flow = world.flow(1, true)?;
    let since = Instant::now();
    let (ours, net) = (world.ours(), world.testbed.net);
    ours.ip("link set eth0 down\n")?;
    std::thread::sleep(Duration::from_secs(3));
    let weights = world.table.now();
    ensure!(
        weights.as_ref().is_some_and(|weights| weights.len() == 3),
        "with the link down: {weights:?}"
    );
    ours.ip("link set eth0 up\n")?;
    if net.family == Family::V6 {
        // The kernel takes IPv6 addresses away with the link; whoever configures it brings them back.
        let (address, prefix) = (net.worker(1), net.prefix());
        ours.ip(&format!("addr replace {address}/{prefix} dev eth0\n"))?;
    }
    let up = Instant::now();
    world.table.wait("back", PATIENCE, all)?;
    flow.works().context("the old flow")?;
    let deleted = world
        .table
        .since(since)
        .iter()
        .any(|(_, weights)| weights.as_ref().is_none_or(|weights| weights.len() < 3));
    ensure!(!deleted, "somebody was deleted");
    Ok(json!({"back_ms": ms(up, world.table.first(up, all))}))
}

pub(super) fn address_change(world: &mut World) -> anyhow::Result<Value> {
    let (ours, net) = (world.ours(), world.testbed.net);
    let (old, new, prefix) = (net.worker(1), net.host(99), net.prefix());
    let since = Instant::now();
    ours.ip(&format!(
        "addr add {new}/{prefix} dev eth0\naddr del {old}/{prefix} dev eth0\n"
    ))?;
    // IPv4 takes the second address of a network away with the first.
    ours.ip(&format!("addr replace {new}/{prefix} dev eth0\n"))?;
    let target = world.target();
    let deadline = Instant::now() + PATIENCE;
    let source = loop {
        // The old route may go with its address before the new one is made.
        let local = ours.run(|| -> std::io::Result<SocketAddr> {
            let socket = std::net::UdpSocket::bind(if target.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            })?;
            socket.connect(target)?;
            socket.local_addr()
        });
        if local.as_ref().is_ok_and(|local| local.ip() == new) {
            break ms(since, Some(Instant::now()));
        }
        ensure!(Instant::now() < deadline, "connections come from {local:?}");
        std::thread::sleep(Duration::from_millis(10));
    };
    ours.run(|| who(target, PATIENCE))
        .context("a request from the new address")?;
    ours.ip(&format!(
        "addr add {old}/{prefix} dev eth0\naddr del {new}/{prefix} dev eth0\n"
    ))?;
    ours.ip(&format!("addr replace {old}/{prefix} dev eth0\n"))?;
    std::thread::sleep(Duration::from_secs(1));
    ours.run(|| who(target, PATIENCE))
        .context("a request from the old address")?;
    Ok(json!({"source_ms": source}))
}

pub(super) fn wiped(world: &mut World, how: &str) -> anyhow::Result<Value> {
    let mut times = Vec::new();
    for pause in [150, 333, 480, 610] {
        std::thread::sleep(Duration::from_millis(pause));
        let before = world.metric("lvscare_foreign_wipes_total")?;
        let since = Instant::now();
        world.ours().call(how)?;
        while world.metric("lvscare_foreign_wipes_total")? == before {
            ensure!(since.elapsed() < PATIENCE, "it did not notice");
            std::thread::sleep(Duration::from_millis(5));
        }
        times.push(ms(since, Some(Instant::now())));
        let (ours, net) = (world.ours(), world.testbed.net);
        let weights = ours.run(|| table::read(&mut None, net));
        ensure!(all(&weights), "put back as {weights:?}");
    }
    Ok(json!({"repaired_ms": times}))
}

pub(super) fn deleted(world: &mut World) -> anyhow::Result<Value> {
    let service = world.testbed.net.service();
    // With another service beside ours, as kube-proxy has, the hooks stay.
    let ours = world.ours();
    ours.run(|| {
        let mut ipvs = Ipvs::open()?;
        ipvs.new_service(&Service::tcp(SocketAddr::new(service.ip(), 1), "rr"))
    })?;
    let facts = wiped(world, &format!("ipvsadm -D -t {service}"))?;
    let found = ours.run(|| Ipvs::open()?.services())?;
    ensure!(found.len() == 2, "{found:?}");
    ours.run(|| Ipvs::open()?.delete_service(Identity::tcp(SocketAddr::new(service.ip(), 1))))?;
    Ok(facts)
}

pub(super) fn killed_in_a_loop(world: &mut World) -> anyhow::Result<Value> {
    let (busy, idle) = (world.flow(1, true)?, world.flow(2, false)?);
    let (ours, target) = (world.ours(), world.target());
    let load: Vec<_> = (0..3)
        .map(|_| Prober::start(&ours, target, Duration::from_millis(20)))
        .collect();
    let since = Instant::now();
    for pause in [50, 100, 200, 400, 700, 1000, 60, 300, 30, 1500] {
        world.testbed.ours().balancer.kill()?;
        world.testbed.ours().balancer.start()?;
        std::thread::sleep(Duration::from_millis(pause));
    }
    let states = world.table.since(since);
    ensure!(states.len() == 1, "the table changed: {states:?}");
    busy.works()?;
    ensure!(idle.ended().is_none(), "the idle flow ended");
    let mut served = no_failures(world, since)?;
    for prober in &load {
        let failures = prober.failures_since(since);
        ensure!(failures.is_empty(), "{failures:?}");
        served += prober.answered_since(since);
    }
    Ok(json!({"served": served}))
}
