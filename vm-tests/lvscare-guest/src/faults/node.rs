//! Faults of the node: link, address, IPVS table, and the daemon itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lvscare::ipvs::{Identity, Ipvs, Service};
use serde_json::{Value, json};

use super::{Scenario, TIMEOUT, all, no_failures};
use crate::client::{Prober, request};
use crate::net::Family;
use crate::report::ms;
use crate::table;

pub(super) fn takes_over(scenario: &mut Scenario) -> anyhow::Result<Value> {
    scenario.settle()?;
    std::thread::sleep(Duration::from_secs(1));
    let changes = scenario.metric("lvscare_reconcile_ops_total")?;
    ensure!(changes == 0.0, "lvscare made {changes} changes");
    ensure!(
        scenario.fetch("/livez")?.contains(" 200 "),
        "/livez is not 200"
    );
    let wrong = scenario.metric("lvscare_sysctl_wrong")?;
    ensure!(wrong == 0.0, "{wrong} settings are wrong");
    let balancer = &scenario.testbed.lvscare_worker().balancer;
    let (threads, [rss, pss]) = (balancer.threads(), balancer.memory());
    ensure!(threads == 1, "{threads} threads");
    Ok(json!({"rss_kib": rss, "pss_kib": pss}))
}

pub(super) fn link_flap(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let flow = scenario.flow(1, true)?;
    let since = Instant::now();
    let (netns, net) = (scenario.netns(), scenario.testbed.net);
    netns.ip("link set eth0 down\n")?;
    std::thread::sleep(Duration::from_secs(3));
    let weights = scenario.table.now();
    ensure!(
        weights.as_ref().is_some_and(|weights| weights.len() == 3),
        "with the link down: {weights:?}"
    );
    netns.ip("link set eth0 up\n")?;
    if net.family == Family::V6 {
        // The kernel removes IPv6 addresses with the link; here the test adds them again.
        let (address, prefix) = (net.worker(1), net.prefix());
        netns.ip(&format!("addr replace {address}/{prefix} dev eth0\n"))?;
    }
    let up = Instant::now();
    scenario
        .table
        .wait("all servers are used again", TIMEOUT, all)?;
    flow.works().context("using the old connection")?;
    let deleted = scenario
        .table
        .since(since)
        .iter()
        .any(|(_, weights)| weights.as_ref().is_none_or(|weights| weights.len() < 3));
    ensure!(!deleted, "a server was removed");
    Ok(json!({"back_ms": ms(up, scenario.table.first(up, all))}))
}

pub(super) fn address_change(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let (netns, net) = (scenario.netns(), scenario.testbed.net);
    let (old, new, prefix) = (net.worker(1), net.host(99), net.prefix());
    let since = Instant::now();
    netns.ip(&format!(
        "addr add {new}/{prefix} dev eth0\naddr del {old}/{prefix} dev eth0\n"
    ))?;
    // In IPv4 the kernel removes the secondary address of a network with the primary one.
    netns.ip(&format!("addr replace {new}/{prefix} dev eth0\n"))?;
    let target = scenario.target();
    let deadline = Instant::now() + TIMEOUT;
    let source = loop {
        // The old route may disappear with its address before the new one exists.
        let local = netns.run(|| -> std::io::Result<SocketAddr> {
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
        ensure!(Instant::now() < deadline, "the source address is {local:?}");
        std::thread::sleep(Duration::from_millis(10));
    };
    netns
        .run(|| request(target, TIMEOUT))
        .context("sending a request from the new address")?;
    netns.ip(&format!(
        "addr add {old}/{prefix} dev eth0\naddr del {new}/{prefix} dev eth0\n"
    ))?;
    netns.ip(&format!("addr replace {old}/{prefix} dev eth0\n"))?;
    std::thread::sleep(Duration::from_secs(1));
    netns
        .run(|| request(target, TIMEOUT))
        .context("sending a request from the old address")?;
    Ok(json!({"source_ms": source}))
}

pub(super) fn wiped(scenario: &mut Scenario, how: &str) -> anyhow::Result<Value> {
    let mut times = Vec::new();
    for pause in [150, 333, 480, 610] {
        std::thread::sleep(Duration::from_millis(pause));
        let before = scenario.metric("lvscare_foreign_wipes_total")?;
        let since = Instant::now();
        scenario.netns().call(how)?;
        while scenario.metric("lvscare_foreign_wipes_total")? == before {
            ensure!(
                since.elapsed() < TIMEOUT,
                "lvscare did not detect the change"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        times.push(ms(since, Some(Instant::now())));
        let (netns, net) = (scenario.netns(), scenario.testbed.net);
        let weights = netns.run(|| table::read(&mut None, net));
        ensure!(all(&weights), "restored as {weights:?}");
    }
    Ok(json!({"repaired_ms": times}))
}

pub(super) fn deleted(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let service = scenario.testbed.net.service();
    // With another virtual service, as kube-proxy has, the hooks of IPVS stay registered.
    let netns = scenario.netns();
    netns.run(|| {
        let mut ipvs = Ipvs::open()?;
        ipvs.new_service(&Service::tcp(SocketAddr::new(service.ip(), 1), "rr"))
    })?;
    let facts = wiped(scenario, &format!("ipvsadm -D -t {service}"))?;
    let found = netns.run(|| Ipvs::open()?.services())?;
    ensure!(found.len() == 2, "{found:?}");
    netns.run(|| Ipvs::open()?.delete_service(Identity::tcp(SocketAddr::new(service.ip(), 1))))?;
    Ok(facts)
}

pub(super) fn killed_in_a_loop(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let (busy, idle) = (scenario.flow(1, true)?, scenario.flow(2, false)?);
    let (netns, target) = (scenario.netns(), scenario.target());
    let load: Vec<_> = (0..3)
        .map(|_| Prober::start(&netns, target, Duration::from_millis(20)))
        .collect();
    let since = Instant::now();
    for pause in [50, 100, 200, 400, 700, 1000, 60, 300, 30, 1500] {
        scenario.testbed.lvscare_worker().balancer.kill()?;
        scenario.testbed.lvscare_worker().balancer.start()?;
        std::thread::sleep(Duration::from_millis(pause));
    }
    let states = scenario.table.since(since);
    ensure!(states.len() == 1, "the table changed: {states:?}");
    busy.works()?;
    ensure!(idle.ended().is_none(), "the idle connection ended");
    let mut served = no_failures(scenario, since)?;
    for prober in &load {
        let failures = prober.failures_since(since);
        ensure!(failures.is_empty(), "{failures:?}");
        served += prober.answered_since(since);
    }
    Ok(json!({"served": served}))
}
