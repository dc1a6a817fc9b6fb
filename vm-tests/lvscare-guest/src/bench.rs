//! The same faults for all balancers, round after round, in lines of JSON that `cargo bench` makes a table of.
//!
//! First ours and keepalived tuned, which meet each fault at the same instant. Then those that take a minute for what
//! these do in a second, each kind of fault in a testbed of its own, so that the rounds run side by side.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::balancer::Kind;
use crate::client::{Flow, Prober, Try, who};
use crate::lossy_link::LossyLink;
use crate::net::{Family, Net};
use crate::report::ms;
use crate::table::{Watcher, uses, uses_only};
use crate::testbed::Testbed;

/// Between two requests of the clients.
const EVERY: Duration = Duration::from_millis(100);

/// How long a fault of a fast round lasts once both have acted, and at most.
const FAST: Duration = Duration::from_secs(6);
/// How long the slow ones are watched.
const SLOW: Duration = Duration::from_secs(40);
/// How long a return is waited for.
const RETURN: Duration = Duration::from_secs(60);

/// `faults`: some of `kill,vanish,freeze,500,flush`. `rounds` of the two fast programs, and `slow` of the others. `lossy_link`:
/// seconds in the bad network; with 0 neither that nor what the programs cost is measured.
pub(crate) fn main(faults: &str, rounds: &str, slow: &str, lossy_link: &str) -> anyhow::Result<()> {
    let (rounds, slow): (u32, u32) = (rounds.parse()?, slow.parse()?);
    let lossy_link = Duration::from_secs(lossy_link.parse()?);
    let mut fast = Lab::new(net(1), &[Kind::Lvscare, Kind::KeepalivedTuned])?;
    for fault in faults.split(',') {
        // What depends most on where between two checks the fault falls is looked at twice as often.
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
        side_by_side(faults, slow)?;
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
    for (kind, falls) in bad.falls() {
        println!(
            "{}",
            json!({"storm": kind.name(), "falls": falls, "seconds": bad.seconds()})
        );
    }
    Ok(())
}

/// The slow ones, each fault in a testbed of its own. None of them would notice a flush.
fn side_by_side(faults: &str, rounds: u32) -> anyhow::Result<()> {
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

/// So that the rounds' faults fall everywhere between two checks, evenly: multiples of the golden ratio fill an interval.
fn wait_between_two_checks(round: u32) {
    std::thread::sleep(Duration::from_secs(1).mul_f64((f64::from(round) * 0.618).fract()));
}

fn victim(round: u32) -> u8 {
    1 + (round % 3) as u8
}

/// A testbed with a client for each worker, and a watcher for each table.
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
                EVERY,
            ));
        }
        let lab = Self {
            testbed,
            tables,
            probers,
        };
        let since = Instant::now();
        lab.wait_back(&[1, 2, 3], since, RETURN)
            .context("at the start")?;
        Ok(lab)
    }

    /// A daemon of ours that has forgotten earlier rounds, which it would take for flapping; whoever meets a fault a
    /// minute is another case than the one measured here.
    fn refresh(&mut self) -> anyhow::Result<()> {
        let balancer = &mut self.testbed.ours().balancer;
        balancer.kill()?;
        balancer.start()?;
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    }

    fn round(&mut self, fault: &str, round: u32, window: Duration) -> anyhow::Result<()> {
        let victim = victim(round);
        let all = |weights: &crate::table::Weights| uses_only(weights, &[1, 2, 3]);
        for table in self.tables.iter().flatten() {
            table.wait("all used before the fault", 2 * RETURN, all)?;
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
        wait_between_two_checks(round);
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
        // Counted to the time of every balancer: what the fault itself took to happen, as a program that was started.
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

    /// Three connections begun when the fault begins, one to each master: when the last is answered.
    fn connect(&self, since: Instant) -> Vec<std::thread::JoinHandle<Result<Instant, String>>> {
        let worker = &self.testbed.workers[0];
        let threads = (0..3).map(|_| {
            let (netns, target) = (worker.netns.clone(), worker.balancer.target());
            std::thread::spawn(move || {
                let answered = netns.run(|| who(target, FAST.saturating_sub(since.elapsed())));
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
            other => bail!("no fault `{other}`"),
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
            // A proxy has no table: it is the last request that counts which failed, or was served by a server that
            // asked for none. No such request is zero, one at the end is never.
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
            "fault": fault, "keeper": self.testbed.workers[n].balancer.kind.name(), "out_ms": out,
            "failed": failures.len(), "busy_ms": ends.first(), "idle_ms": ends.get(1),
            "window_ms": since.elapsed().as_millis() as u64,
        })
    }

    /// When the worker's clients could be served by `master` again.
    fn back(&self, n: usize, master: u8, since: Instant) -> Option<Instant> {
        match &self.tables[n] {
            Some(table) => table.first(since, |weights| uses(weights, master)),
            None => self.probers[n].first_of(master, since),
        }
    }

    fn wait_back(&self, masters: &[u8], since: Instant, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        for n in 0..self.testbed.workers.len() {
            for master in masters {
                // One that never comes back is a fact.
                while self.back(n, *master, since).is_none() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        Ok(())
    }

    /// Somebody flushes the table of both.
    fn flush(&mut self, round: u32) -> anyhow::Result<()> {
        wait_between_two_checks(round);
        let since = Instant::now();
        for worker in &self.testbed.workers {
            worker.netns.call("ipvsadm -C")?;
        }
        let flushed = Instant::now();
        let all = |weights: &crate::table::Weights| uses_only(weights, &[1, 2, 3]);
        std::thread::sleep(Duration::from_secs(4));
        for (n, worker) in self.testbed.workers.iter_mut().enumerate() {
            let states = self.tables[n].as_ref().map(|table| table.since(since));
            // Gone first, and only then back.
            let states = states.unwrap_or_default();
            let gone = states.iter().position(|(_, weights)| !all(weights));
            let back =
                gone.and_then(|gone| states[gone..].iter().find(|(_, weights)| all(weights)));
            // Repaired faster than it was looked at.
            let unseen = (gone.is_none() && states.last().is_some_and(|(_, weights)| all(weights)))
                .then_some(flushed);
            let back = back.map(|(at, _)| *at).or(unseen);
            let balancer = worker.balancer.kind.name();
            println!(
                "{}",
                json!({"fault": "flush", "keeper": balancer, "out_ms": ms(since, back)})
            );
            if back.is_none() {
                worker.balancer.stop()?;
                worker.balancer.start()?;
            }
        }
        self.wait_back(&[1, 2, 3], Instant::now(), RETURN)
    }

    /// Memory, threads, processor time and size of each, at rest.
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
