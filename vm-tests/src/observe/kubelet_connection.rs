//! Records to which apiserver the kubelet of a node is connected through the VIP.
//!
//! The source is the node's kernel: established connections of kubelet, and the server that IPVS
//! has assigned to each. kubelet has one connection for all its watches, so without a connection to
//! a healthy apiserver it learns of no change.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};

use super::script;
use crate::machine::vm::Vm;

const UNIT: &str = "kubelet-connection";
const FOLDER: &str = "/run/firstlight-kubelet-connection";

/// Matches a recorded line that names a server.
const SERVER: &str = " [0-9A-F]{8} ";

/// Prints the servers of kubelet's connections: one line, sorted.
const KUBELET_SERVERS: &str = include_str!("kubelet_servers.sh");

/// The script, running on a node.
#[derive(Debug)]
pub struct KubeletConnection<'a>(&'a Vm);

/// The servers of kubelet from each time on, in seconds since the guest's boot.
pub type History = Vec<(f64, BTreeSet<String>)>;

impl<'a> KubeletConnection<'a> {
    /// Starts the script, and returns when kubelet is connected.
    pub fn start(node: &'a Vm, vip: &str) -> Result<Self> {
        // No backslash, which systemd-run would have to escape.
        let vip = vip.replace('.', "[.]");
        node.shell(&format!("rm -rf {FOLDER}"))?;
        let file = format!("{FOLDER}/seen");
        script::record_changes(node, UNIT, FOLDER, KUBELET_SERVERS, &[&vip], &file)
            .context("recording kubelet's connection")?;
        let connection = Self(node);
        connection.wait_until(
            Duration::from_secs(120),
            &format!("grep -qE '{SERVER}' {FOLDER}/seen"),
        )?;
        Ok(connection)
    }

    /// The address of the server to which kubelet is connected now.
    pub fn server(&self) -> Result<String> {
        let history = parse(&self.0.shell(&format!("cat {FOLDER}/seen"))?)?;
        let (_, servers) = history.last().context("nothing is recorded")?;
        servers.first().cloned().context("kubelet is not connected")
    }

    /// Waits until kubelet is connected to another server than `dead`.
    pub fn wait_for_another(&self, guest: Duration, dead: &str) -> Result<()> {
        let hex = hex(dead)?;
        self.wait_until(
            guest,
            &format!(
                "now=$(tail -n1 {FOLDER}/seen); echo \"$now\" | grep -qE '{SERVER}' && \
                 ! echo \"$now\" | grep -q {hex}"
            ),
        )
        .with_context(|| format!("waiting for kubelet to connect to another server than {dead}"))
    }

    pub fn stop(self) -> Result<History> {
        let text = self.0.shell(&format!(
            "systemctl stop firstlight-{UNIT}; cat {FOLDER}/seen"
        ))?;
        parse(&text).with_context(|| format!("reading the recorded connections: `{text}`"))
    }

    fn wait_until(&self, guest: Duration, condition: &str) -> Result<()> {
        let script = format!("until {condition}; do sleep 0.2; done");
        self.0.shell_within(&script, guest).map(drop)
    }
}

/// The time from `since` until kubelet was connected to a server and not to `dead`; `None` if that
/// never happened.
pub fn reconnected_after(history: &History, since: f64, dead: &str) -> Option<f64> {
    // The last state before `since` is the one at `since`.
    let first = history
        .iter()
        .rposition(|(at, _)| *at <= since)
        .unwrap_or(0);
    let left = first
        + history[first..]
            .iter()
            .position(|(_, servers)| !servers.contains(dead))?;
    let back = history[left..]
        .iter()
        .find(|(_, servers)| !servers.is_empty() && !servers.contains(dead))?;
    Some((back.0 - since).max(0.0))
}

fn parse(text: &str) -> Result<History> {
    text.lines()
        .map(|line| {
            let (at, servers) = line.split_once(' ').unwrap_or((line, ""));
            let servers = servers
                .split_whitespace()
                .map(address)
                .collect::<Option<_>>();
            let read = at.parse().ok().zip(servers);
            read.with_context(|| format!("line `{line}`"))
        })
        .collect()
}

/// `C0A8070A` is 192.168.7.10.
fn address(hex: &str) -> Option<String> {
    let number = u32::from_str_radix(hex, 16).ok()?;
    Some(std::net::Ipv4Addr::from(number).to_string())
}

fn hex(address: &str) -> Result<String> {
    let address: std::net::Ipv4Addr = address.parse()?;
    Ok(format!("{:08X}", u32::from(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelet_recovers_on_another_apiserver() -> Result<()> {
        let history = parse("10.0 C0A8070A \n20.5 \n21.0 C0A8070B \n40.0 C0A8070A C0A8070B \n")?;
        assert_eq!(reconnected_after(&history, 20.0, "192.168.7.10"), Some(1.0));
        // kubelet was connected to another server already.
        assert_eq!(reconnected_after(&history, 30.0, "192.168.7.10"), Some(0.0));
        assert_eq!(reconnected_after(&history, 20.0, "192.168.7.11"), Some(0.0));
        assert_eq!(reconnected_after(&history, 50.0, "192.168.7.11"), None);
        assert_eq!(hex("192.168.7.10")?, "C0A8070A");
        assert!(parse("x").is_err());
        Ok(())
    }
}
