//! Checks of the environment: firewall, EndpointSlice, control-plane host, foreign services,
//! shutdown.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lvscare::ipvs::{Identity, Ipvs, Service};
use serde_json::{Value, json};

use super::{Scenario, TIMEOUT, all, no_failures};
use crate::balancer::{Balancer, Kind};
use crate::client::request;
use crate::report::ms;
use crate::table::{self, Watcher, uses_only};

pub(super) fn firewall(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let netns = scenario.netns();
    // Neighbour discovery is not a connection, and IPv6 does not work without it.
    netns.nft(
        "table inet strict { chain in { type filter hook input priority filter; policy drop; \
         ct state established,related accept; iif lo accept; meta l4proto icmpv6 accept; }; }\n",
    )?;
    let since = Instant::now();
    let flow = scenario.flow(1, true)?;
    std::thread::sleep(Duration::from_secs(3));
    flow.works()?;
    let served = no_failures(scenario, since);
    netns.nft("delete table inet strict\n")?;
    ensure!(all(&scenario.table.now()), "{:?}", scenario.table.now());
    Ok(json!({"served": served?}))
}

pub(super) fn members(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let folder = scenario.testbed.folder().to_path_buf();
    let server = scenario.testbed.net.service().to_string();
    let kubeconfig = scenario.testbed.pki.kubeconfig(&folder, &server)?;
    let cache = folder.join("members.json");
    if scenario.testbed.masters.len() < 4 {
        scenario.testbed.add_master(4)?;
    }
    let balancer = &mut scenario.testbed.lvscare_worker().balancer;
    let before = std::mem::replace(
        &mut balancer.flags,
        vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--cache={}", cache.display()),
        ],
    );
    balancer.kill()?;
    balancer.start()?;
    let facts = change_members(scenario);
    scenario.testbed.write_endpoints(&[1, 2, 3])?;
    scenario.testbed.lvscare_worker().balancer.flags = before;
    let cached = std::fs::read_to_string(&cache).context("reading the cache");
    facts.and_then(|facts| Ok(json!({"times": facts, "cache": cached?})))
}

fn change_members(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let busy = scenario.flow(1, true)?;
    let since = Instant::now();
    scenario.testbed.write_endpoints(&[1, 2, 3, 4])?;
    let four = |weights: &crate::table::Weights| uses_only(weights, &[1, 2, 3, 4]);
    scenario
        .table
        .wait("the new server is used", TIMEOUT, four)?;
    let came = ms(since, scenario.table.first(since, four));
    let since = Instant::now();
    scenario.testbed.write_endpoints(&[1, 2, 3])?;
    scenario
        .table
        .wait("the old server is removed", TIMEOUT, all)?;
    let went = ms(since, scenario.table.first(since, all));
    let served = no_failures(scenario, since)?;
    busy.works()?;
    Ok(json!({"in_ms": came, "out_ms": went, "served": served}))
}

pub(super) fn on_control_plane(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let net = scenario.testbed.net;
    let masters: Vec<_> = (1..=3).map(|n| net.master(n)).collect();
    let netns = scenario.testbed.master(1).netns.clone();
    let address = net.master(1).ip();
    let folder = scenario.testbed.folder().to_path_buf();
    let mut balancer = Balancer::new(Kind::Lvscare, netns.clone(), net, address, masters, &folder)?;
    balancer.flags.push("--scheduler=fo".to_owned());
    ensure!(balancer.run("run-once", &[])? == 0, "run-once failed");
    balancer.start()?;
    let table = Watcher::start(&netns, net);
    let wanted = [(1, 2), (2, 1), (3, 1)].into();
    table.wait(
        "its own apiserver has twice the weight",
        TIMEOUT,
        |weights| weights.as_ref() == Some(&wanted),
    )?;
    let ask = || netns.run(|| request(net.service(), TIMEOUT));
    for _ in 0..6 {
        let by = ask()?;
        ensure!(by == 1, "answered by m{by}");
    }
    scenario.testbed.master(1).kill()?;
    table.wait("its own apiserver is removed", TIMEOUT, |weights| {
        uses_only(weights, &[2, 3])
    })?;
    let by = ask().context("sending a request without its own apiserver")?;
    ensure!(by != 1, "the dead apiserver answered");
    scenario.testbed.master(1).start()?;
    table.wait("its own apiserver is used again", TIMEOUT, |weights| {
        weights.as_ref() == Some(&wanted)
    })?;
    ensure!(ask()? == 1, "another apiserver answered");
    balancer.stop()?;
    ensure!(balancer.run("care", &["--clean"])? == 0, "clean failed");
    Ok(json!({"failed_over_to": by}))
}

pub(super) fn foreign_services(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let netns = scenario.netns();
    let others = |n: u16| {
        let [high, low] = n.to_be_bytes();
        std::net::SocketAddr::from(([10, 97, high, low], 443))
    };
    netns.run(|| {
        let mut ipvs = Ipvs::open()?;
        (0..10_000).try_for_each(|n| ipvs.new_service(&Service::tcp(others(n), "rr")))
    })?;
    let before = scenario.testbed.lvscare_worker().balancer.ticks();
    let since = Instant::now();
    std::thread::sleep(Duration::from_secs(3));
    let balancer = &scenario.testbed.lvscare_worker().balancer;
    let busy = (balancer.ticks() - before) as f64 / 100.0 / since.elapsed().as_secs_f64();
    let [rss, _] = balancer.memory();
    let service = scenario.testbed.net.service();
    let since = Instant::now();
    netns.run(|| Ipvs::open()?.delete_service(Identity::tcp(service)))?;
    let net = scenario.testbed.net;
    while !all(&netns.run(|| table::read(&mut None, net))) {
        ensure!(since.elapsed() < TIMEOUT, "the service was not restored");
    }
    let repaired = ms(since, Some(Instant::now()));
    let left = netns.run(|| Ipvs::open()?.services())?.len();
    ensure!(left == 10_001, "{left} services");
    netns.run(|| {
        let mut ipvs = Ipvs::open()?;
        (0..10_000).try_for_each(|n| ipvs.delete_service(Identity::tcp(others(n))))
    })?;
    Ok(json!({"repaired_ms": repaired, "processor_share": busy, "rss_kib": rss}))
}

pub(super) fn cleaned(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let (netns, target) = (scenario.netns(), scenario.target());
    let balancer = &mut scenario.testbed.lvscare_worker().balancer;
    balancer.stop()?;
    ensure!(all(&scenario.table.now()), "stopping changed the table");
    let balancer = &mut scenario.testbed.lvscare_worker().balancer;
    let mut dry = balancer.lvscare("run-once");
    let output = netns
        .start(dry.arg("--dry-run").stdout(Stdio::piped()))?
        .wait_with_output()?;
    ensure!(
        output.stdout.is_empty(),
        "a dry run would change {:?}",
        String::from_utf8_lossy(&output.stdout)
    );
    ensure!(balancer.run("care", &["--clean"])? == 0, "clean failed");
    let answered = netns.run(|| request(target, Duration::from_secs(2)));
    ensure!(answered.is_err(), "the virtual service still answers");
    ensure!(
        netns.run(|| Ipvs::open()?.services())?.is_empty(),
        "a virtual service is left"
    );
    ensure!(
        balancer.run("status", &[])? == 3,
        "status does not report a missing setup"
    );
    let output = netns.start(
        balancer
            .lvscare("run-once")
            .arg("--dry-run")
            .stdout(Stdio::piped()),
    )?;
    let output = String::from_utf8_lossy(&output.wait_with_output()?.stdout).into_owned();
    ensure!(
        output.lines().count() == 5,
        "route, service, three servers: {output}"
    );
    ensure!(
        balancer.run("run-once", &["--wait=5s"])? == 0,
        "run-once failed"
    );
    ensure!(
        netns
            .run(|| request(target, Duration::from_secs(2)))
            .is_ok(),
        "no answer"
    );
    // Leaves the network as it was.
    balancer.start()?;
    ensure!(balancer.run("status", &[]).is_ok(), "status failed");
    Ok(json!({"dry_run": output}))
}
