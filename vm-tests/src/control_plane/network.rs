//! Network namespaces for the hosts of a control plane.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};

use crate::host::process::{self, READY_TIMEOUT, end};
use crate::host::{NO_SKIP, is_skip_forbidden};

/// Runs `test` in a network namespace with a bridge, to which a namespace for each of `hosts` (name
/// and address in a /24) is connected. Without the privileges for that it prints the reason and
/// skips the test; `FIRSTLIGHT_NO_SKIP=1` makes that a failure.
pub fn in_network(
    hosts: &[(&str, Ipv4Addr)],
    test: impl FnOnce(&HostNetwork) -> Result<()> + Send,
) -> Result<()> {
    let run = || match HostNetwork::new(hosts) {
        Ok(network) => test(&network),
        Err(error) if is_skip_forbidden() => {
            Err(error.context(format!("{NO_SKIP}=1 forbids skipping")))
        }
        Err(error) => {
            eprintln!("skipped: no network namespaces: {error:#}");
            Ok(())
        }
    };
    // A thread of its own, because a thread cannot return to the host's network namespace.
    match std::thread::scope(|scope| scope.spawn(run).join()) {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Hosts on one bridge. Each is a network namespace, because etcd compares the source address of a
/// peer with its certificate.
#[derive(Debug)]
pub struct HostNetwork {
    hosts: BTreeMap<String, Holder>,
}

/// A process that keeps a network namespace alive.
#[derive(Debug)]
pub(super) struct Holder {
    process: Child,
    pub(super) address: Ipv4Addr,
}

impl Drop for Holder {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

impl HostNetwork {
    /// Moves this thread to a new network namespace with the bridge.
    fn new(hosts: &[(&str, Ipv4Addr)]) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET)
            .context("leaving the host's network namespace (needs root)")?;
        ip("link add name bridge0 type bridge")?;
        ip("link set lo up")?;
        ip("link set bridge0 up")?;
        let mut network = Self {
            hosts: BTreeMap::new(),
        };
        for (name, address) in hosts {
            let mut unshare = bound();
            unshare.args(["unshare", "--net", "sleep", "infinity"]);
            let process = unshare.spawn().context("starting a namespace")?;
            let holder = Holder {
                process,
                address: *address,
            };
            holder.wait()?;
            let pid = holder.process.id();
            ip(&format!(
                "link add name {name} type veth peer name eth0 netns {pid}"
            ))?;
            ip(&format!("link set {name} master bridge0 up"))?;
            for words in [
                "link set lo up".to_owned(),
                format!("address add {address}/24 dev eth0"),
                "link set eth0 up".to_owned(),
            ] {
                let mut inside = holder.inside();
                process::run(inside.arg("ip").args(words.split_whitespace()))?;
            }
            network.hosts.insert((*name).to_owned(), holder);
        }
        // The client has an address of its own.
        let [net, subnet, part, _] = hosts.first().map_or([10, 0, 0, 1], |(_, a)| a.octets());
        ip(&format!(
            "address add {net}.{subnet}.{part}.254/24 dev bridge0"
        ))?;
        Ok(network)
    }

    /// Gives the test an address of another host, whose servers it plays.
    pub fn add_address(&self, address: Ipv4Addr) -> Result<()> {
        ip(&format!("address add {address}/24 dev bridge0"))
    }

    pub(super) fn host(&self, name: &str) -> Result<&Holder> {
        self.hosts
            .get(name)
            .with_context(|| format!("the network has no host `{name}`"))
    }
}

impl Holder {
    /// Waits until the process has entered a namespace of its own.
    fn wait(&self) -> Result<()> {
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
        let (ours, end) = (namespace("thread-self")?, Instant::now() + READY_TIMEOUT);
        while namespace(&self.process.id().to_string())? == ours {
            if Instant::now() > end {
                bail!("unshare has created no network namespace");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The start of a command that runs in this namespace.
    pub(super) fn inside(&self) -> Command {
        let mut command = bound();
        command.arg("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.process.id()));
        command
    }
}

/// The start of a command that the kernel kills when this process ends, even by SIGKILL.
pub fn bound() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).stdin(Stdio::null());
    command
}

fn ip(words: &str) -> Result<()> {
    process::run(Command::new("ip").args(words.split_whitespace())).map(drop)
}
