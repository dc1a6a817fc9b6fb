//! Our worker and keepalived's (tuned), the same masters, the same fault at the same instant: what becomes of the table,
//! of connections, and of connections under way.
//!
//! Each claim starts from a network where all is well, and leaves one. Times are facts, not claims: the machine may be
//! emulated and busy.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use lvscare::ipvs::{Identity, Ipvs, Service};
use lvscare::status::{Grade, Status};
use serde_json::{Value, json};

use crate::cell::{Cell, Family, Net};
use crate::client::{Flow, Prober, who};
use crate::keeper::Kind;
use crate::report::{claim, ms};
use crate::space::Space;
use crate::storm::{self, Storm};
use crate::table::{self, Watcher, uses, uses_only};

/// For what takes a second or two on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often the clients ask.
const EVERY: Duration = Duration::from_millis(100);

pub(crate) struct World {
    pub(crate) cell: Cell,
    /// Of our worker.
    pub(crate) table: Watcher,
    /// Of keepalived's.
    pub(crate) theirs: Watcher,
    pub(crate) prober: Prober,
    pod: Space,
}

pub(crate) fn main(family: &str) -> anyhow::Result<()> {
    let net = Net {
        cell: 1,
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
    let storm = Storm::start(
        Net { cell: 2, ..net },
        &[Kind::Lvscare, Kind::KeepalivedTuned],
    )?;
    type Prove = fn(&mut World) -> anyhow::Result<Value>;
    let claims: [(&str, Prove); 20] = [
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
        ("beside 10,000 services of others", crowded),
        ("stopping leaves the table, clean removes it", cleaned),
    ];
    for (name, prove) in claims {
        let held = claim(name, || prove(world));
        if !held {
            world.heal();
            holds = false;
        }
        world.settle()?;
    }
    holds &= claim(storm::CLAIM, || storm.judge());
    ensure!(holds, "not all claims hold");
    Ok(())
}

impl World {
    fn new(net: Net) -> anyhow::Result<(Self, Value)> {
        let modules = || std::fs::read_to_string("/proc/modules").unwrap_or_default();
        ensure!(!modules().contains("ip_vs"), "IPVS is loaded already");
        let mut cell = Cell::new(net, &[Kind::Lvscare])?;
        let status = cell.ours().keeper.run("run-once", &[])?;
        ensure!(status == 0, "run-once ended with {status}");
        let loaded = modules();
        ensure!(loaded.contains("ip_vs_rr "), "no scheduler: {loaded}");
        let target = cell.ours().keeper.target();
        cell.ours().space.run(|| who(target, PATIENCE))?;
        cell.add(Kind::KeepalivedTuned)?;
        for worker in &mut cell.workers {
            worker.keeper.start()?;
        }
        let pod = cell.add_pod(1)?;
        let spaces: Vec<_> = cell
            .workers
            .iter()
            .map(|worker| worker.space.clone())
            .collect();
        let world = Self {
            table: Watcher::start(&spaces[0], net),
            theirs: Watcher::start(&spaces[1], net),
            prober: Prober::start(&spaces[0], target, EVERY),
            pod,
            cell,
        };
        world.table.wait("all in our table", PATIENCE, all)?;
        world
            .theirs
            .wait("all in keepalived's table", PATIENCE, all)?;
        Ok((world, json!({})))
    }

    fn target(&mut self) -> SocketAddr {
        self.cell.ours().keeper.target()
    }

    fn ours(&mut self) -> Space {
        self.cell.ours().space.clone()
    }

    fn flow(&mut self, master: u8, busy: bool) -> anyhow::Result<Flow> {
        let (space, target) = (self.ours(), self.target());
        Flow::open(&space, target, master, busy)
    }

    /// Undoes what a claim that failed left behind.
    fn heal(&mut self) {
        for n in 1..=3 {
            let master = self.cell.master(n);
            // One that has nothing to undo says so.
            let _ = master.appear();
            let _ = master.restart_with("good");
        }
    }

    /// Until all is well again everywhere, with a daemon that has forgotten its distrust.
    fn settle(&mut self) -> anyhow::Result<()> {
        let keeper = &mut self.cell.ours().keeper;
        if keeper.is_running() {
            keeper.kill()?;
        }
        keeper.start()?;
        self.table
            .wait("all in our table again", 2 * PATIENCE, all)?;
        self.theirs
            .wait("all in keepalived's table again", 2 * PATIENCE, all)?;
        let deadline = Instant::now() + PATIENCE;
        while !self
            .status()
            .is_ok_and(|status| status.grade() == Grade::AllUp)
        {
            let status = self.status();
            ensure!(Instant::now() < deadline, "not all up again: {status:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn status(&mut self) -> anyhow::Result<Status> {
        let answer = self.fetch("/status")?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        Ok(serde_json::from_str(body)?)
    }

    fn metric(&mut self, name: &str) -> anyhow::Result<f64> {
        let text = self.fetch("/metrics")?;
        let lines = text.lines().filter(|line| line.starts_with(name));
        Ok(lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    fn fetch(&mut self, path: &str) -> anyhow::Result<String> {
        use std::io::{Read, Write};
        let request = format!("GET {path} HTTP/1.0\r\nhost: x\r\n\r\n");
        self.ours().run(|| {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:10354")?;
            stream.write_all(request.as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }
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

fn takes_over(world: &mut World) -> anyhow::Result<Value> {
    world.settle()?;
    std::thread::sleep(Duration::from_secs(1));
    let changes = world.metric("lvscare_reconcile_ops_total")?;
    ensure!(changes == 0.0, "it made {changes} changes");
    ensure!(world.fetch("/livez")?.contains(" 200 "), "it is not alive");
    let wrong = world.metric("lvscare_sysctl_wrong")?;
    ensure!(wrong == 0.0, "{wrong} settings are wrong");
    let keeper = &world.cell.ours().keeper;
    let (threads, [rss, pss]) = (keeper.threads(), keeper.memory());
    ensure!(threads == 1, "{threads} threads");
    Ok(json!({"rss_kib": rss, "pss_kib": pss}))
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

fn killed(world: &mut World) -> anyhow::Result<Value> {
    let (busy, idle) = (world.flow(1, true)?, world.flow(2, true)?);
    let since = Instant::now();
    world.cell.master(1).kill()?;
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
    world.cell.master(1).start()?;
    let back = Instant::now();
    world.table.wait("back", PATIENCE, all)?;
    let back = ms(back, world.table.first(back, all));
    Ok(json!({"out": facts, "served": served, "back_ms": back}))
}

fn vanished(world: &mut World) -> anyhow::Result<Value> {
    let (busy, idle) = (world.flow(2, true)?, world.flow(2, false)?);
    let (target, pod) = (world.target(), world.pod.clone());
    let from_pod = Flow::open(&pod, target, 2, true)?;
    let other = world.flow(3, true)?;
    let theirs = world.cell.workers[1].space.clone();
    let their_idle = Flow::open(&theirs, target, 2, false)?;
    let since = Instant::now();
    world.cell.master(2).vanish()?;
    // Connections under way: at least one of three goes to the master that is no longer there.
    let opening: Vec<_> = (0..3)
        .map(|_| {
            let space = world.ours();
            std::thread::spawn(move || {
                let answered = space.run(|| who(target, PATIENCE));
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
    world.cell.master(2).appear()?;
    let back = Instant::now();
    world.table.wait("back", PATIENCE, all)?;
    let back = ms(back, world.table.first(back, all));
    Ok(
        json!({"out": out, "ends": ends, "connects_ms": connects, "keepalived_idle_stuck": stuck, "back_ms": back}),
    )
}

fn frozen(world: &mut World) -> anyhow::Result<Value> {
    let flow = world.flow(3, true)?;
    let since = Instant::now();
    world.cell.master(3).freeze()?;
    let out = falls(world, since, 3)?;
    let drained = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let served = no_failures(world, drained)?;
    let weights = world.table.now();
    ensure!(
        weights.as_ref().and_then(|weights| weights.get(&3)) == Some(&0),
        "not drained but {weights:?}"
    );
    world.cell.master(3).thaw()?;
    flow.works().context("the old flow")?;
    let back = Instant::now();
    world.table.wait("back", PATIENCE, all)?;
    Ok(json!({"out": out, "served": served, "back_ms": ms(back, world.table.first(back, all))}))
}

fn draining(world: &mut World) -> anyhow::Result<Value> {
    let (busy, idle) = (world.flow(1, true)?, world.flow(1, false)?);
    let since = Instant::now();
    world.cell.master(1).behave("500")?;
    let out = falls(world, since, 1)?;
    std::thread::sleep(Duration::from_secs(2));
    busy.works()?;
    ensure!(idle.ended().is_none(), "the idle flow ended");
    let served = no_failures(world, since)?;
    world.cell.master(1).behave("200")?;
    let back = Instant::now();
    world.table.wait("back", PATIENCE, all)?;
    Ok(json!({"out": out, "served": served, "back_ms": ms(back, world.table.first(back, all))}))
}

fn certificate(world: &mut World, kind: &str) -> anyhow::Result<Value> {
    let since = Instant::now();
    world.cell.master(2).restart_with(kind)?;
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
    world.cell.master(2).restart_with("good")?;
    world.table.wait("back", PATIENCE, all)?;
    Ok(
        json!({"out_ms": ms(since, world.table.first(since, |weights| !uses(weights, 2))), "keepalived_uses_it": keepalived_uses_it}),
    )
}

fn slow(world: &mut World) -> anyhow::Result<Value> {
    let since = Instant::now();
    world.cell.master(1).behave("slow 150")?;
    std::thread::sleep(Duration::from_secs(4));
    let falls = world.table.falls(since);
    ensure!(falls == 0, "taken out {falls} times");
    world.cell.master(1).behave("slow 2500")?;
    let since = Instant::now();
    let out = self::falls(world, since, 1)?;
    world.cell.master(1).behave("200")?;
    world.table.wait("back", PATIENCE, all)?;
    Ok(json!({"out_at_2500_ms": out}))
}

fn link_flap(world: &mut World) -> anyhow::Result<Value> {
    let flow = world.flow(1, true)?;
    let since = Instant::now();
    let (ours, net) = (world.ours(), world.cell.net);
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

fn address_change(world: &mut World) -> anyhow::Result<Value> {
    let (ours, net) = (world.ours(), world.cell.net);
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

fn wiped(world: &mut World, how: &str) -> anyhow::Result<Value> {
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
        let (ours, net) = (world.ours(), world.cell.net);
        let weights = ours.run(|| table::read(&mut None, net));
        ensure!(all(&weights), "put back as {weights:?}");
    }
    Ok(json!({"repaired_ms": times}))
}

fn deleted(world: &mut World) -> anyhow::Result<Value> {
    let service = world.cell.net.service();
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

fn all_down(world: &mut World) -> anyhow::Result<Value> {
    let since = Instant::now();
    for n in 1..=3 {
        world.cell.master(n).kill()?;
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
    world.cell.master(2).start()?;
    let alone = |weights: &crate::table::Weights| uses_only(weights, &[2]);
    world
        .table
        .wait("the one that is back is used alone", PATIENCE, alone)?;
    let alone = ms(back, world.table.first(back, alone));
    world.cell.master(1).start()?;
    world.cell.master(3).start()?;
    world.table.wait("all back", PATIENCE, all)?;
    Ok(json!({"alone_ms": alone}))
}

fn all_draining(world: &mut World) -> anyhow::Result<Value> {
    let flow = world.flow(1, true)?;
    let since = Instant::now();
    for n in 1..=3 {
        world.cell.master(n).behave("500")?;
    }
    std::thread::sleep(Duration::from_secs(3));
    ensure!(
        all(&world.table.now()),
        "the table: {:?}",
        world.table.now()
    );
    for n in 1..=3 {
        world.cell.master(n).behave("200")?;
    }
    world.table.wait("all back", PATIENCE, all)?;
    flow.works()?;
    let served = no_failures(world, since)?;
    Ok(json!({"served": served}))
}

fn killed_in_a_loop(world: &mut World) -> anyhow::Result<Value> {
    let (busy, idle) = (world.flow(1, true)?, world.flow(2, false)?);
    let (ours, target) = (world.ours(), world.target());
    let load: Vec<_> = (0..3)
        .map(|_| Prober::start(&ours, target, Duration::from_millis(20)))
        .collect();
    let since = Instant::now();
    for pause in [50, 100, 200, 400, 700, 1000, 60, 300, 30, 1500] {
        world.cell.ours().keeper.kill()?;
        world.cell.ours().keeper.start()?;
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

#[path = "faults_more.rs"]
mod more;
use more::{cleaned, crowded, firewall, members, on_a_master};
