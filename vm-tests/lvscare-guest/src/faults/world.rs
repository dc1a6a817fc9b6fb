//! One network in which our worker and keepalived's watch the same masters, and what can be asked of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lvscare::status::{Grade, Status};
use serde_json::{Value, json};

use super::{EVERY, PATIENCE, all};
use crate::cell::{Cell, Net};
use crate::client::{Flow, Prober, who};
use crate::keeper::Kind;
use crate::space::Space;
use crate::table::Watcher;

pub(crate) struct World {
    pub(crate) cell: Cell,
    /// Of our worker.
    pub(crate) table: Watcher,
    /// Of keepalived's.
    pub(crate) theirs: Watcher,
    pub(crate) prober: Prober,
    pub(super) pod: Space,
}

impl World {
    pub(super) fn new(net: Net) -> anyhow::Result<(Self, Value)> {
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

    pub(super) fn target(&mut self) -> SocketAddr {
        self.cell.ours().keeper.target()
    }

    pub(super) fn ours(&mut self) -> Space {
        self.cell.ours().space.clone()
    }

    pub(super) fn flow(&mut self, master: u8, busy: bool) -> anyhow::Result<Flow> {
        let (space, target) = (self.ours(), self.target());
        Flow::open(&space, target, master, busy)
    }

    /// Undoes what a claim that failed left behind.
    pub(super) fn heal(&mut self) {
        for n in 1..=3 {
            let master = self.cell.master(n);
            // One that has nothing to undo says so.
            let _ = master.appear();
            let _ = master.restart_with("good");
        }
    }

    /// Until all is well again everywhere, with a daemon that has forgotten its distrust.
    pub(super) fn settle(&mut self) -> anyhow::Result<()> {
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
