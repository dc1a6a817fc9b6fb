//! Claims about surroundings: firewalls, members, a master's own node, a crowded table, and the end.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lvscare::ipvs::{Identity, Ipvs, Service};
use serde_json::{Value, json};

use super::{PATIENCE, World, all, no_failures};
use crate::balancer::{Balancer, Kind};
use crate::client::who;
use crate::report::ms;
use crate::table::{self, Watcher, uses_only};

pub(super) fn firewall(world: &mut World) -> anyhow::Result<Value> {
    let ours = world.ours();
    // Neighbour discovery is not a connection; a firewall that drops it has no IPv6.
    ours.nft(
        "table inet strict { chain in { type filter hook input priority filter; policy drop; \
         ct state established,related accept; iif lo accept; meta l4proto icmpv6 accept; }; }\n",
    )?;
    let since = Instant::now();
    let flow = world.flow(1, true)?;
    std::thread::sleep(Duration::from_secs(3));
    flow.works()?;
    let served = no_failures(world, since);
    ours.nft("delete table inet strict\n")?;
    ensure!(all(&world.table.now()), "{:?}", world.table.now());
    Ok(json!({"served": served?}))
}

pub(super) fn members(world: &mut World) -> anyhow::Result<Value> {
    let folder = world.testbed.folder().to_path_buf();
    let server = world.testbed.net.service().to_string();
    let kubeconfig = world.testbed.pki.kubeconfig(&folder, &server)?;
    let cache = folder.join("members.json");
    if world.testbed.masters.len() < 4 {
        world.testbed.add_master(4)?;
    }
    let balancer = &mut world.testbed.ours().balancer;
    let before = std::mem::replace(
        &mut balancer.flags,
        vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--cache={}", cache.display()),
        ],
    );
    balancer.kill()?;
    balancer.start()?;
    let facts = come_and_go(world);
    world.testbed.write_endpoints(&[1, 2, 3])?;
    world.testbed.ours().balancer.flags = before;
    let cached = std::fs::read_to_string(&cache).context("reading the cache");
    facts.and_then(|facts| Ok(json!({"times": facts, "cache": cached?})))
}

fn come_and_go(world: &mut World) -> anyhow::Result<Value> {
    let busy = world.flow(1, true)?;
    let since = Instant::now();
    world.testbed.write_endpoints(&[1, 2, 3, 4])?;
    let four = |weights: &crate::table::Weights| uses_only(weights, &[1, 2, 3, 4]);
    world.table.wait("the new one is in", PATIENCE, four)?;
    let came = ms(since, world.table.first(since, four));
    let since = Instant::now();
    world.testbed.write_endpoints(&[1, 2, 3])?;
    world.table.wait("the old one is out", PATIENCE, all)?;
    let went = ms(since, world.table.first(since, all));
    let served = no_failures(world, since)?;
    busy.works()?;
    Ok(json!({"in_ms": came, "out_ms": went, "served": served}))
}

pub(super) fn on_a_master(world: &mut World) -> anyhow::Result<Value> {
    let net = world.testbed.net;
    let masters: Vec<_> = (1..=3).map(|n| net.master(n)).collect();
    let netns = world.testbed.master(1).netns.clone();
    let address = net.master(1).ip();
    let folder = world.testbed.folder().to_path_buf();
    let mut balancer = Balancer::new(Kind::Lvscare, netns.clone(), net, address, masters, &folder)?;
    balancer.flags.push("--scheduler=fo".to_owned());
    ensure!(balancer.run("run-once", &[])? == 0, "run-once failed");
    balancer.start()?;
    let table = Watcher::start(&netns, net);
    let wanted = [(1, 2), (2, 1), (3, 1)].into();
    table.wait("itself twice as heavy", PATIENCE, |weights| {
        weights.as_ref() == Some(&wanted)
    })?;
    let ask = || netns.run(|| who(net.service(), PATIENCE));
    for _ in 0..6 {
        let by = ask()?;
        ensure!(by == 1, "answered by m{by}");
    }
    world.testbed.master(1).kill()?;
    table.wait("without itself", PATIENCE, |weights| {
        uses_only(weights, &[2, 3])
    })?;
    let by = ask().context("without its own apiserver")?;
    ensure!(by != 1, "answered by the dead");
    world.testbed.master(1).start()?;
    table.wait("itself again", PATIENCE, |weights| {
        weights.as_ref() == Some(&wanted)
    })?;
    ensure!(ask()? == 1, "not by itself again");
    balancer.stop()?;
    ensure!(balancer.run("care", &["--clean"])? == 0, "clean failed");
    Ok(json!({"failed_over_to": by}))
}

pub(super) fn crowded(world: &mut World) -> anyhow::Result<Value> {
    let ours = world.ours();
    let others = |n: u16| {
        let [high, low] = n.to_be_bytes();
        std::net::SocketAddr::from(([10, 97, high, low], 443))
    };
    ours.run(|| {
        let mut ipvs = Ipvs::open()?;
        (0..10_000).try_for_each(|n| ipvs.new_service(&Service::tcp(others(n), "rr")))
    })?;
    let before = world.testbed.ours().balancer.ticks();
    let since = Instant::now();
    std::thread::sleep(Duration::from_secs(3));
    let balancer = &world.testbed.ours().balancer;
    let busy = (balancer.ticks() - before) as f64 / 100.0 / since.elapsed().as_secs_f64();
    let [rss, _] = balancer.memory();
    let service = world.testbed.net.service();
    let since = Instant::now();
    ours.run(|| Ipvs::open()?.delete_service(Identity::tcp(service)))?;
    let net = world.testbed.net;
    while !all(&ours.run(|| table::read(&mut None, net))) {
        ensure!(since.elapsed() < PATIENCE, "not put back");
    }
    let repaired = ms(since, Some(Instant::now()));
    let left = ours.run(|| Ipvs::open()?.services())?.len();
    ensure!(left == 10_001, "{left} services");
    ours.run(|| {
        let mut ipvs = Ipvs::open()?;
        (0..10_000).try_for_each(|n| ipvs.delete_service(Identity::tcp(others(n))))
    })?;
    Ok(json!({"repaired_ms": repaired, "processor_share": busy, "rss_kib": rss}))
}

pub(super) fn cleaned(world: &mut World) -> anyhow::Result<Value> {
    let (ours, target) = (world.ours(), world.target());
    let balancer = &mut world.testbed.ours().balancer;
    balancer.stop()?;
    ensure!(all(&world.table.now()), "stopping changed the table");
    let balancer = &mut world.testbed.ours().balancer;
    let mut dry = balancer.lvscare("run-once");
    let output = ours
        .start(dry.arg("--dry-run").stdout(Stdio::piped()))?
        .wait_with_output()?;
    ensure!(
        output.stdout.is_empty(),
        "a dry run would change {:?}",
        String::from_utf8_lossy(&output.stdout)
    );
    ensure!(balancer.run("care", &["--clean"])? == 0, "clean failed");
    let answered = ours.run(|| who(target, Duration::from_secs(2)));
    ensure!(answered.is_err(), "the virtual server still answers");
    ensure!(
        ours.run(|| Ipvs::open()?.services())?.is_empty(),
        "something is left"
    );
    ensure!(
        balancer.run("status", &[])? == 3,
        "status does not say that nothing is set up"
    );
    let output = ours.start(
        balancer
            .lvscare("run-once")
            .arg("--dry-run")
            .stdout(Stdio::piped()),
    )?;
    let said = String::from_utf8_lossy(&output.wait_with_output()?.stdout).into_owned();
    ensure!(
        said.lines().count() == 5,
        "route, service, three servers: {said}"
    );
    ensure!(
        balancer.run("run-once", &["--wait=5s"])? == 0,
        "run-once failed"
    );
    ensure!(
        ours.run(|| who(target, Duration::from_secs(2))).is_ok(),
        "no answer"
    );
    // The next would find the network as it was.
    balancer.start()?;
    ensure!(balancer.run("status", &[]).is_ok(), "status failed");
    Ok(json!({"dry_run": said}))
}
