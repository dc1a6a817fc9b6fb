//! Retry loops without a time limit that report what they wait for.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::time::{ClockId, clock_gettime};

use crate::kube::client::Client;
use crate::report::Reporter;
use crate::status::Wait;

/// Pauses of one to two seconds with jitter, so that machines that boot together do not poll together.
#[derive(Debug)]
pub struct Backoff {
    wait: Wait,
    state: u64,
}

impl Backoff {
    /// `seed`: anything that differs between hosts, such as the node name.
    pub fn new(seed: &str) -> Self {
        let clock =
            clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_nsec().unsigned_abs());
        let state = seed.bytes().fold(clock | 1, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(byte.into())
        });
        let wait = Wait::begin();
        Self { wait, state }
    }

    /// Start and number of tries.
    pub fn wait(&self) -> &Wait {
        &self.wait
    }

    pub fn pause(&mut self) {
        self.wait.again();
        // Knuth's MMIX generator: it only spreads the machines.
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let jitter = Duration::from_millis((self.state >> 33) % 1000);
        #[allow(
            clippy::disallowed_methods,
            reason = "a server that does not listen yet sends no event"
        )]
        thread::sleep(Duration::from_secs(1) + jitter);
    }
}

/// Calls `check` until it succeeds; reports its last error as the state of `target`.
pub fn until(
    target: &str,
    seed: &str,
    report: &mut Reporter,
    mut check: impl FnMut() -> Result<()>,
) {
    let mut backoff = Backoff::new(seed);
    while let Err(error) = check() {
        report.waiting(target, &format!("{error:#}"), backoff.wait());
        backoff.pause();
    }
    report.waited();
}

/// Waits until the apiserver's `/readyz` returns 200.
pub fn until_apiserver_ready(client: &Client, report: &mut Reporter) {
    let target = format!("apiserver {}", client.base());
    until(&target, client.base(), report, || {
        let answer = client.get("/readyz")?;
        ensure!(answer.status == 200, "{}", answer.say());
        Ok(())
    });
}

/// Waits until kubelet has registered the node with its hostname label.
///
/// kubeadm gives up after two minutes without the node, or while it lacks this label (`PatchNodeOnce`).
pub fn until_node_registered(client: &Client, node: &str, report: &mut Reporter) {
    let path = format!("/api/v1/nodes/{node}");
    let target = format!("node {node} at {}", client.base());
    until(&target, node, report, || {
        let answer = client.get(&path)?;
        ensure!(answer.status != 404, "kubelet has not registered it yet");
        let node = answer.ok()?;
        let labelled = node["metadata"]["labels"]["kubernetes.io/hostname"].is_string();
        ensure!(labelled, "registered, hostname label missing");
        Ok(())
    });
}

/// `address:port` as a URL takes it.
pub fn endpoint(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}
