//! One network in which our worker and keepalived's watch the same masters, and what can be asked of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lvscare::status::{Grade, Status};
use serde_json::{Value, json};

use super::{EVERY, PATIENCE, all};
use crate::balancer::Kind;
use crate::client::{Flow, Prober, who};
use crate::net::Net;
use crate::netns::Netns;
use crate::table::Watcher;
use crate::testbed::Testbed;

pub(crate) struct World {
    pub(crate) testbed: Testbed,
    /// Of our worker.
    pub(crate) table: Watcher,
    /// Of keepalived's.
    pub(crate) theirs: Watcher,
    pub(crate) prober: Prober,
    pub(super) pod: Netns,
}

impl World {
    pub(super) fn new(net: Net) -> anyhow::Result<(Self, Value)> {
        let modules = || std::fs::read_to_string("/proc/modules").unwrap_or_default();
        ensure!(!modules().contains("ip_vs"), "IPVS is loaded already");
        let mut testbed = Testbed::new(net, &[Kind::Lvscare])?;
        let status = testbed.ours().balancer.run("run-once", &[])?;
        ensure!(status == 0, "run-once ended with {status}");
        let loaded = modules();
        ensure!(loaded.contains("ip_vs_rr "), "no scheduler: {loaded}");
        let target = testbed.ours().balancer.target();
        testbed.ours().netns.run(|| who(target, PATIENCE))?;
        testbed.add(Kind::KeepalivedTuned)?;
        for worker in &mut testbed.workers {
            worker.balancer.start()?;
        }
        let pod = testbed.add_pod(1)?;
        let namespaces: Vec<_> = testbed
            .workers
            .iter()
            .map(|worker| worker.netns.clone())
            .collect();
        let world = Self {
            table: Watcher::start(&namespaces[0], net),
            theirs: Watcher::start(&namespaces[1], net),
            prober: Prober::start(&namespaces[0], target, EVERY),
            pod,
            testbed,
        };
        world.table.wait("all in our table", PATIENCE, all)?;
        world
            .theirs
            .wait("all in keepalived's table", PATIENCE, all)?;
        Ok((world, json!({})))
    }

    pub(super) fn target(&mut self) -> SocketAddr {
        self.testbed.ours().balancer.target()
    }

    pub(super) fn ours(&mut self) -> Netns {
        self.testbed.ours().netns.clone()
    }

    pub(super) fn flow(&mut self, master: u8, busy: bool) -> anyhow::Result<Flow> {
        let (netns, target) = (self.ours(), self.target());
        Flow::open(&netns, target, master, busy)
    }

    /// Undoes what a claim that failed left behind.
    pub(super) fn heal(&mut self) {
        for n in 1..=3 {
            let master = self.testbed.master(n);
            // One that has nothing to undo says so.
            let _ = master.appear();
            let _ = master.restart_with("good");
        }
    }

    /// Until all is well again everywhere, with a daemon that has forgotten its distrust.
    pub(super) fn settle(&mut self) -> anyhow::Result<()> {
        let balancer = &mut self.testbed.ours().balancer;
        if balancer.is_running() {
            balancer.kill()?;
        }
        balancer.start()?;
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

    pub(super) fn status(&mut self) -> anyhow::Result<Status> {
        let answer = self.fetch("/status")?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        Ok(serde_json::from_str(body)?)
    }

    pub(super) fn metric(&mut self, name: &str) -> anyhow::Result<f64> {
        let text = self.fetch("/metrics")?;
        let lines = text.lines().filter(|line| line.starts_with(name));
        Ok(lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    pub(super) fn fetch(&mut self, path: &str) -> anyhow::Result<String> {
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
