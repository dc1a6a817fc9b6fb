//! A network that loses one packet in a hundred in each direction, and delays and reorders the
//! others by up to 0.1 s. All servers are healthy, so lvscare must not remove one.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};

use crate::balancer::Kind;
use crate::net::{Family, Net};
use crate::report::claim;
use crate::table::{Watcher, uses_only};
use crate::testbed::Testbed;

pub(crate) const CLAIM: &str = "no healthy server is removed in a bad network";

pub(crate) struct LossyLink {
    testbed: Testbed,
    tables: Vec<(usize, Watcher)>,
    since: Instant,
}

pub(crate) fn main(family: &str, seconds: &str) -> anyhow::Result<()> {
    let net = Net {
        testbed: 1,
        family: Family::parse(family)?,
    };
    let kinds = [
        Kind::Lvscare,
        Kind::KeepalivedTuned,
        Kind::KeepalivedCopied,
        Kind::Haproxy,
    ];
    let lossy_link = LossyLink::start(net, &kinds)?;
    let before = lossy_link.footprint();
    std::thread::sleep(Duration::from_secs(seconds.parse()?));
    let after = lossy_link.footprint();
    ensure!(claim(CLAIM, || lossy_link.check()), "failed: {CLAIM}");
    let steady = claim("the number of descriptors does not grow", || {
        // A process that has ended has no descriptors.
        ensure!(
            0 < after.0 && after.0 <= before.0,
            "descriptors: {} before, {} after",
            before.0,
            after.0
        );
        Ok(json!({"descriptors": after.0, "rss_kib": [before.1, after.1]}))
    });
    ensure!(steady, "the number of descriptors grows");
    Ok(())
}

impl LossyLink {
    /// Starts the balancers, and degrades the links when all servers are up.
    pub(crate) fn start(net: Net, kinds: &[Kind]) -> anyhow::Result<Self> {
        let mut testbed = Testbed::new(net, kinds)?;
        let mut tables = Vec::new();
        for (n, worker) in testbed.workers.iter_mut().enumerate() {
            if worker.balancer.kind == Kind::Lvscare {
                ensure!(
                    worker.balancer.run("run-once", &[])? == 0,
                    "run-once failed"
                );
            }
            worker.balancer.start()?;
            if worker.balancer.kind.uses_ipvs() {
                tables.push((n, Watcher::start(&worker.netns, net)));
            }
        }
        for (_, table) in &tables {
            table.wait("all up", Duration::from_secs(60), |weights| {
                uses_only(weights, &[1, 2, 3])
            })?;
        }
        // keepalived adds its servers before the first health check.
        std::thread::sleep(Duration::from_secs(3));
        testbed.degrade_links()?;
        Ok(Self {
            testbed,
            tables,
            since: Instant::now(),
        })
    }

    /// How often each balancer has removed a healthy server.
    pub(crate) fn removals(&self) -> Vec<(Kind, usize)> {
        let mut removals = Vec::new();
        for (n, table) in &self.tables {
            removals.push((
                self.testbed.workers[*n].balancer.kind,
                table.removals(self.since),
            ));
        }
        for worker in &self.testbed.workers {
            if worker.balancer.kind == Kind::Haproxy {
                removals.push((
                    Kind::Haproxy,
                    haproxy_removals(&worker.balancer.stats()).unwrap_or(0),
                ));
            }
        }
        removals
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.since.elapsed().as_secs_f64()
    }

    pub(crate) fn check(&self) -> anyhow::Result<Value> {
        let removals = self.removals();
        let ours = removals.iter().find(|(kind, _)| *kind == Kind::Lvscare);
        let named: serde_json::Map<_, _> = removals
            .iter()
            .map(|(kind, removals)| (kind.name().to_owned(), json!(removals)))
            .collect();
        ensure!(
            ours.is_some_and(|(_, removals)| *removals == 0),
            "{named:?}"
        );
        Ok(json!({"seconds": self.seconds(), "false_removals": named}))
    }

    /// Descriptors and KiB of the idle lvscare. The minimum counts, because a health request uses
    /// more for a moment.
    fn footprint(&self) -> (usize, u64) {
        let balancer = &self.testbed.workers[0].balancer;
        let least = (0..50).map(|_| {
            std::thread::sleep(Duration::from_millis(50));
            balancer.descriptors()
        });
        (least.min().unwrap_or_default(), balancer.memory()[0])
    }
}

/// The column `chkdown` of HAProxy's statistics: how often a server was marked down.
fn haproxy_removals(socket: &std::path::Path) -> Option<usize> {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    stream.write_all(b"show stat\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let mut lines = text.lines();
    let header: Vec<_> = lines.next()?.trim_start_matches("# ").split(',').collect();
    let column = header.iter().position(|name| *name == "chkdown")?;
    let servers = lines.filter(|line| line.starts_with("kube_api_backend,m"));
    Some(
        servers
            .filter_map(|line| line.split(',').nth(column)?.parse::<usize>().ok())
            .sum(),
    )
}
