//! The same faults for all balancers in several rounds. The output is lines of JSON, from which
//! `cargo bench` makes a table.
//!
//! lvscare and the tuned keepalived come first, with each fault at the same time. The others need a
//! minute for what these do in a second, so each of their faults has a testbed of its own and all
//! run in parallel.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::balancer::Kind;
use crate::client::{Flow, Prober, Try, request};
use crate::lossy_link::LossyLink;
use crate::net::{Family, Net};
use crate::report::ms;
use crate::table::{Watcher, uses, uses_only};
use crate::testbed::Testbed;

/// The time between two requests of a client.
const INTERVAL: Duration = Duration::from_millis(100);

/// The maximum length of a fault for fast balancers. It ends earlier when both have reacted.
const FAST: Duration = Duration::from_secs(6);
/// The length of a fault for slow balancers.
const SLOW: Duration = Duration::from_secs(40);
/// How long to wait until a server is used again.
const RETURN: Duration = Duration::from_secs(60);

/// `faults` is a list of `kill,vanish,freeze,500,flush`, `rounds` the number of rounds of the two
/// fast balancers, `slow` that of the others. `lossy_link` is the number of seconds in the bad
/// network; 0 skips that and the cost of the balancers.
pub(crate) fn main(faults: &str, rounds: &str, slow: &str, lossy_link: &str) -> anyhow::Result<()> {
    let (rounds, slow): (u32, u32) = (rounds.parse()?, slow.parse()?);
    let lossy_link = Duration::from_secs(lossy_link.parse()?);
    let mut fast = Lab::new(net(1), &[Kind::Lvscare, Kind::KeepalivedTuned])?;
    for fault in faults.split(',') {
        // The result of `vanish` depends most on the time between two health checks, so it gets
        // twice the rounds.
        let rounds = if fault == "vanish" {
            2 * rounds
        } else {
            rounds
        };
        for round in 0..rounds {
            fast.refresh()?;
            match fault {
                "flush" => fast.flush(round)?,
                fault => fast.round(fault, round, FAST)?,
            }
        }
    }
    drop(fast);
    if slow > 0 {
        run_in_parallel(faults, slow)?;
    }
    if lossy_link.is_zero() {
        return Ok(());
    }
    let all = [
        Kind::Lvscare,
        Kind::KeepalivedTuned,
        Kind::KeepalivedCopied,
        Kind::Haproxy,
        Kind::Nginx,
    ];
    let lab = Lab::new(net(6), &all)?;
    lab.footprints(Duration::from_secs(60))?;
    drop(lab);
    let bad = LossyLink::start(net(7), &all[..4])?;
    std::thread::sleep(lossy_link);
    for (kind, removals) in bad.removals() {
        println!(
            "{}",
            json!({"storm": kind.name(), "falls": removals, "seconds": bad.seconds()})
        );
    }
    Ok(())
}

/// Runs the slow balancers, each fault in a testbed of its own. None of them repairs a flush.
fn run_in_parallel(faults: &str, rounds: u32) -> anyhow::Result<()> {
    let kinds = [Kind::KeepalivedCopied, Kind::Haproxy, Kind::Nginx];
    let faults = faults.split(',').filter(|fault| *fault != "flush");
    let mut labs = Vec::new();
    for (testbed, fault) in (2..).zip(faults) {
        labs.push((fault.to_owned(), Lab::new(net(testbed), &kinds)?));
    }
    let mut threads = Vec::new();
    for (fault, mut lab) in labs {
        threads.push(std::thread::spawn(move || {
            for round in 0..rounds {
                lab.round(&fault, round, SLOW)?;
            }
            anyhow::Ok(())
        }));
    }
    for thread in threads {
        match thread.join() {
            Ok(done) => done?,
            Err(_) => bail!("a round panicked"),
        }
    }
    Ok(())
}

fn net(testbed: u8) -> Net {
    Net {
        testbed,
        family: Family::V4,
    }
}

/// Spreads the faults of the rounds evenly over the interval between two health checks: multiples
/// of the golden ratio fill an interval.
fn vary_phase(round: u32) {
    std::thread::sleep(Duration::from_secs(1).mul_f64((f64::from(round) * 0.618).fract()));
}

fn victim(round: u32) -> u8 {
    1 + (round % 3) as u8
}

/// A testbed with a client for each worker and a watcher for each IPVS table.
struct Lab {
    testbed: Testbed,
    tables: Vec<Option<Watcher>>,
    probers: Vec<Prober>,
}

impl Lab {
    fn new(net: Net, kinds: &[Kind]) -> anyhow::Result<Self> {
        let mut testbed = Testbed::new(net, kinds)?;
        let (mut tables, mut probers) = (Vec::new(), Vec::new());
        for worker in &mut testbed.workers {
            if worker.balancer.kind == Kind::Lvscare {
                worker.balancer.run("run-once", &[])?;
            }
            worker.balancer.start()?;
            let ipvs = worker.balancer.kind.uses_ipvs();
            tables.push(ipvs.then(|| Watcher::start(&worker.netns, net)));
            probers.push(Prober::start(
                &worker.netns,
                worker.balancer.target(),
                INTERVAL,
            ));
        }
        let lab = Self {
            testbed,
            tables,
            probers,
        };
        let since = Instant::now();
        lab.wait_back(&[1, 2, 3], since, RETURN)
            .context("waiting for all servers at the start")?;
        Ok(lab)
    }

    /// Restarts lvscare. It delays the return of a flapping server, and would take the faults of
    /// earlier rounds for flapping.
    fn refresh(&mut self) -> anyhow::Result<()> {
        let balancer = &mut self.testbed.lvscare_worker().balancer;
        balancer.kill()?;
        balancer.start()?;
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    }

    fn round(&mut self, fault: &str, round: u32, window: Duration) -> anyhow::Result<()> {
        let victim = victim(round);
        let all = |weights: &crate::table::Weights| uses_only(weights, &[1, 2, 3]);
        for table in self.tables.iter().flatten() {
            table.wait("all servers are used before the fault", 2 * RETURN, all)?;
        }
        let mut flows = Vec::new();
        for worker in &self.testbed.workers {
            let held = |busy| Flow::open(&worker.netns, worker.balancer.target(), victim, busy);
            flows.push(if fault == "vanish" {
                vec![held(true)?, held(false)?]
            } else {
                Vec::new()
            });
        }
        vary_phase(round);
        let since = Instant::now();
        self.inject(fault, victim)?;
        let injected = Instant::now();
        let connects = if fault == "vanish" && window == FAST {
            self.connect(since)
        } else {
            Vec::new()
        };
        let is_over = || {
            let out = self.tables.iter().flatten();
            let mut out = out.map(|table| table.first(since, |weights| !uses(weights, victim)));
            window == FAST && fault != "vanish" && out.all(|at| at.is_some())
        };
        while since.elapsed() < window && !is_over() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let connects: Vec<Result<Instant, String>> = connects
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("panicked".to_owned())))
            .collect();
        let healed = Instant::now();
        let mut facts: Vec<_> = (0..self.testbed.workers.len())
            .map(|n| self.facts(n, fault, victim, since, &flows[n]))
            .collect();
        let out = self.tables[0]
            .as_ref()
            .and_then(|table| table.first(since, |weights| !uses(weights, victim)));
        if let (false, Some(out)) = (connects.is_empty(), out) {
            let failed = connects.iter().find_map(|connect| connect.clone().err());
            let last = connects.iter().flatten().max().copied();
            facts[0]["connect_ms"] = ms(out, last.filter(|_| failed.is_none()));
            facts[0]["connect_error"] = json!(failed);
        }
        // The time of the injection itself, which is part of the time of every balancer.
        facts[0]["inject_ms"] = ms(since, Some(injected));
        drop(flows);
        self.heal(fault, victim)?;
        self.wait_back(&[victim], healed, RETURN)?;
        for (n, mut facts) in facts.into_iter().enumerate() {
            facts["back_ms"] = ms(healed, self.back(n, victim, healed));
            println!("{facts}");
        }
        Ok(())
    }

    /// Opens three connections at the time of the fault, one to each server. Returns when each is
    /// answered.
    fn connect(&self, since: Instant) -> Vec<std::thread::JoinHandle<Result<Instant, String>>> {
        let worker = &self.testbed.workers[0];
        let threads = (0..3).map(|_| {
            let (netns, target) = (worker.netns.clone(), worker.balancer.target());
            std::thread::spawn(move || {
                let answered = netns.run(|| request(target, FAST.saturating_sub(since.elapsed())));
                let ended = Instant::now();
                let failed = |error| format!("{error} after {:?}", ended - since);
                answered.map(|_| ended).map_err(failed)
            })
        });
        threads.collect()
    }

    fn inject(&mut self, fault: &str, victim: u8) -> anyhow::Result<()> {
        let master = self.testbed.master(victim);
        match fault {
            "kill" => master.kill(),
            "vanish" => master.vanish(),
            "freeze" => master.freeze(),
            "500" => master.behave("500"),
            other => bail!("unknown fault `{other}`"),
        }
    }

    fn heal(&mut self, fault: &str, victim: u8) -> anyhow::Result<()> {
        let master = self.testbed.master(victim);
        match fault {
            "kill" => master.start(),
            "vanish" => master.appear(),
            "freeze" => master.thaw(),
            _ => master.behave("200"),
        }
    }

    fn facts(&self, n: usize, fault: &str, victim: u8, since: Instant, flows: &[Flow]) -> Value {
        let failures = self.probers[n].failures_since(since);
        let out = match &self.tables[n] {
            Some(table) => ms(since, table.first(since, |weights| !uses(weights, victim))),
            // A proxy has no IPVS table. Its time ends with the last request that failed or that a
            // draining server answered. Without such a request it is zero; with one at the end the
            // server was never removed.
            None => {
                let tries = self.probers[n].tries();
                let bad = |one: &&Try| match one.by {
                    Ok(by) => fault == "500" && by == victim,
                    Err(_) => true,
                };
                let last = tries.iter().rfind(|one| one.at >= since && bad(one));
                let last = last.map_or(since, |one| one.ended);
                let is_over = last.elapsed() > Duration::from_secs(5);
                ms(since, is_over.then_some(last))
            }
        };
        let ends: Vec<_> = flows
            .iter()
            .map(|flow| ms(since, flow.ended().map(|(at, _)| at)))
            .collect();
        json!({
            "fault": fault, "balancer": self.testbed.workers[n].balancer.kind.name(), "out_ms": out,
            "failed": failures.len(), "busy_ms": ends.first(), "idle_ms": ends.get(1),
            "window_ms": since.elapsed().as_millis() as u64,
        })
    }

    /// When `master` could serve the clients of the worker again.
    fn back(&self, n: usize, master: u8, since: Instant) -> Option<Instant> {
        match &self.tables[n] {
            Some(table) => table.first(since, |weights| uses(weights, master)),
            None => self.probers[n].first_of(master, since),
        }
    }

    fn wait_back(&self, masters: &[u8], since: Instant, timeout: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        for n in 0..self.testbed.workers.len() {
            for master in masters {
                // A server that never returns is a result, not an error.
                while self.back(n, *master, since).is_none() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        Ok(())
    }

    /// Flushes the IPVS tables of both workers.
    fn flush(&mut self, round: u32) -> anyhow::Result<()> {
        vary_phase(round);
        let since = Instant::now();
        for worker in &self.testbed.workers {
            worker.netns.call("ipvsadm -C")?;
        }
        let flushed = Instant::now();
        let all = |weights: &crate::table::Weights| uses_only(weights, &[1, 2, 3]);
        std::thread::sleep(Duration::from_secs(4));
        for (n, worker) in self.testbed.workers.iter_mut().enumerate() {
            let states = self.tables[n].as_ref().map(|table| table.since(since));
            // The table is repaired only after it was incomplete.
            let states = states.unwrap_or_default();
            let gone = states.iter().position(|(_, weights)| !all(weights));
            let back =
                gone.and_then(|gone| states[gone..].iter().find(|(_, weights)| all(weights)));
            // The repair was faster than the watcher.
            let unseen = (gone.is_none() && states.last().is_some_and(|(_, weights)| all(weights)))
                .then_some(flushed);
            let back = back.map(|(at, _)| *at).or(unseen);
            let balancer = worker.balancer.kind.name();
            println!(
                "{}",
                json!({"fault": "flush", "balancer": balancer, "out_ms": ms(since, back)})
            );
            if back.is_none() {
                worker.balancer.stop()?;
                worker.balancer.start()?;
            }
        }
        self.wait_back(&[1, 2, 3], Instant::now(), RETURN)
    }

    /// Prints memory, threads, processor time and program size of each idle balancer.
    fn footprints(&self, time: Duration) -> anyhow::Result<()> {
        let ticks = || -> Vec<u64> {
            let workers = self.testbed.workers.iter();
            workers.map(|worker| worker.balancer.ticks()).collect()
        };
        let before = ticks();
        std::thread::sleep(time);
        for (worker, (before, after)) in self.testbed.workers.iter().zip(before.iter().zip(ticks()))
        {
            let balancer = &worker.balancer;
            let [rss, pss] = balancer.memory();
            let size = std::fs::metadata(balancer.kind.program())?.len();
            let share = (after - before) as f64 / time.as_secs_f64();
            println!(
                "{}",
                json!({"footprint": balancer.kind.name(), "rss_kib": rss, "pss_kib": pss, "cpu_percent": share,
                       "threads": balancer.threads(), "program_bytes": size})
            );
        }
        Ok(())
    }
}
