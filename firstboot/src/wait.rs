//! Retry loops without a time limit that report what they wait for.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::time::{ClockId, clock_gettime};

use crate::kube::client::Client;
use crate::report::Reporter;
use crate::status::Wait;

/// Pauses between tries, with the start of the wait and the number of tries.
#[derive(Debug)]
pub struct Backoff {
    wait: Wait,
    /// State of the random numbers; `None`: no jitter.
    jitter: Option<u64>,
    /// The next pause, if pauses grow.
    growing: Option<Duration>,
}

/// The first and the longest of growing pauses.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

impl Backoff {
    /// Pauses of one to two seconds, so that machines that boot together do not poll a shared
    /// server together.
    ///
    /// `seed`: anything that differs between hosts, such as the node name.
    pub fn new(seed: &str) -> Self {
        let clock =
            clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_nsec().unsigned_abs());
        let state = seed.bytes().fold(clock | 1, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(byte.into())
        });
        Self {
            wait: Wait::begin(),
            jitter: Some(state),
            growing: None,
        }
    }

    /// Pauses that double from 0.2 s to 5 s, and up to a quarter more.
    pub fn growing(seed: &str) -> Self {
        Self {
            growing: Some(FIRST),
            ..Self::new(seed)
        }
    }

    /// The least that the next pause takes.
    pub fn upcoming(&self) -> Duration {
        self.growing.unwrap_or(Duration::from_secs(1))
    }

    /// Pauses of one second: for a server of this host, which no other machine polls.
    pub fn fixed() -> Self {
        Self {
            wait: Wait::begin(),
            jitter: None,
            growing: None,
        }
    }

    /// Start and number of tries.
    pub fn wait(&self) -> &Wait {
        &self.wait
    }

    /// Counts a try that follows without a pause.
    pub fn count(&mut self) {
        self.wait.count_try();
    }

    pub fn pause(&mut self) {
        self.count();
        let duration = self.next_pause();
        #[allow(
            clippy::disallowed_methods,
            reason = "a server that does not listen yet sends no event"
        )]
        thread::sleep(duration);
    }

    fn next_pause(&mut self) -> Duration {
        let second = Duration::from_secs(1);
        let Some(state) = &mut self.jitter else {
            return second;
        };
        // Knuth's MMIX generator: it only spreads the machines.
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let part = (*state >> 33) % 1000;
        match &mut self.growing {
            None => second + Duration::from_millis(part),
            Some(growing) => {
                let pause = *growing;
                *growing = (pause * 2).min(LONGEST);
                pause + pause * u32::try_from(part).unwrap_or(0) / 4000
            }
        }
    }
}

/// Calls `check` until it succeeds; reports its last error as the state of `target`.
pub fn until(
    target: &str,
    mut backoff: Backoff,
    report: &mut Reporter,
    mut check: impl FnMut() -> Result<()>,
) {
    while let Err(error) = check() {
        report.waiting(target, &format!("{error:#}"), backoff.wait());
        backoff.pause();
    }
    report.wait_finished();
}

/// Waits until the apiserver's `/readyz` returns 200.
pub fn until_apiserver_ready(client: &Client, report: &mut Reporter) {
    let target = format!("apiserver {}", client.base());
    until(&target, Backoff::fixed(), report, || {
        let answer = client.get("/readyz")?;
        ensure!(answer.status == 200, "{}", answer.say());
        Ok(())
    });
}

/// Waits until the local apiserver has the node object with its hostname label.
///
/// kubeadm gives up after two minutes without the node, or while it lacks this label
/// (`PatchNodeOnce`).
pub fn until_node_registered(client: &Client, node: &str, report: &mut Reporter) {
    let path = format!("/api/v1/nodes/{node}");
    let target = format!("node {node} at {}", client.base());
    until(&target, Backoff::fixed(), report, || {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_seeded_backoff_has_jitter() {
        let pauses = |mut backoff: Backoff| -> Vec<_> {
            (0..100).map(|_| backoff.next_pause().as_millis()).collect()
        };
        assert_eq!(pauses(Backoff::fixed()), [1000; 100]);
        let growing = pauses(Backoff::growing("m1"));
        assert!((200..=250).contains(&growing[0]) && (400..=500).contains(&growing[1]));
        assert!(
            growing[9..]
                .iter()
                .all(|pause| (5000..=6250).contains(pause))
        );
        let jittered = pauses(Backoff::new("m1"));
        assert!(jittered.iter().all(|pause| (1000..2000).contains(pause)));
        assert!(
            jittered.windows(2).any(|pair| pair[0] != pair[1]),
            "{jittered:?}"
        );
    }
}
