//! A network in which a worker with lvscare and one with keepalived use the same servers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lvscare::status::{Grade, Status};
use serde_json::{Value, json};

use super::{INTERVAL, TIMEOUT, all};
use crate::balancer::Kind;
use crate::client::{Flow, Prober, request};
use crate::net::Net;
use crate::netns::Netns;
use crate::table::Watcher;
use crate::testbed::Testbed;

pub(crate) struct Scenario {
    pub(crate) testbed: Testbed,
    /// The IPVS table of the worker with lvscare.
    pub(crate) table: Watcher,
    /// The IPVS table of the worker with keepalived.
    pub(crate) keepalived_table: Watcher,
    pub(crate) prober: Prober,
    pub(super) pod: Netns,
}

impl Scenario {
    pub(super) fn new(net: Net) -> anyhow::Result<(Self, Value)> {
        let modules = || std::fs::read_to_string("/proc/modules").unwrap_or_default();
        ensure!(!modules().contains("ip_vs"), "IPVS is already loaded");
        let mut testbed = Testbed::new(net, &[Kind::Lvscare])?;
        let status = testbed.lvscare_worker().balancer.run("run-once", &[])?;
        ensure!(status == 0, "run-once: exit status {status}");
        let loaded = modules();
        ensure!(
            loaded.contains("ip_vs_rr "),
            "the scheduler is not loaded: {loaded}"
        );
        let target = testbed.lvscare_worker().balancer.target();
        testbed
            .lvscare_worker()
            .netns
            .run(|| request(target, TIMEOUT))?;
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
        let scenario = Self {
            table: Watcher::start(&namespaces[0], net),
            keepalived_table: Watcher::start(&namespaces[1], net),
            prober: Prober::start(&namespaces[0], target, INTERVAL),
            pod,
            testbed,
        };
        scenario
            .table
            .wait("all servers in lvscare's table", TIMEOUT, all)?;
        scenario
            .keepalived_table
            .wait("all servers in keepalived's table", TIMEOUT, all)?;
        Ok((scenario, json!({})))
    }

    pub(super) fn target(&mut self) -> SocketAddr {
        self.testbed.lvscare_worker().balancer.target()
    }

    pub(super) fn netns(&mut self) -> Netns {
        self.testbed.lvscare_worker().netns.clone()
    }

    pub(super) fn flow(&mut self, master: u8, busy: bool) -> anyhow::Result<Flow> {
        let (netns, target) = (self.netns(), self.target());
        Flow::open(&netns, target, master, busy)
    }

    /// Undoes the fault of a failed check.
    pub(super) fn heal(&mut self) {
        for n in 1..=3 {
            let master = self.testbed.master(n);
            // Undoing a fault that is not there is an error, which does not matter.
            let _ = master.appear();
            let _ = master.restart_with("good");
        }
    }

    /// Restarts lvscare, which then does not delay the return of a flapping server, and waits until
    /// all servers are used.
    pub(super) fn settle(&mut self) -> anyhow::Result<()> {
        let balancer = &mut self.testbed.lvscare_worker().balancer;
        if balancer.is_running() {
            balancer.kill()?;
        }
        balancer.start()?;
        self.table
            .wait("all servers in lvscare's table again", 2 * TIMEOUT, all)?;
        self.keepalived_table
            .wait("all servers in keepalived's table again", 2 * TIMEOUT, all)?;
        let deadline = Instant::now() + TIMEOUT;
        while !self
            .status()
            .is_ok_and(|status| status.grade() == Grade::AllUp)
        {
            let status = self.status();
            ensure!(Instant::now() < deadline, "a server is not up: {status:?}");
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
        self.netns().run(|| {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:10354")?;
            stream.write_all(request.as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }
}
