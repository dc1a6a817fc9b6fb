//! Where a node's kubelet is connected to through the VIP, watched by the node's own kernel: its established flows and
//! the real server IPVS gave each of them.
//!
//! kubelet keeps all its watches on one such connection, so while it has none to a living apiserver it hears nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::guest_loop::{self, on_change};
use crate::vm::Vm;

const UNIT: &str = "kubelet-flow";
const FOLDER: &str = "/run/firstlight-kubelet-flow";

/// A line of what was seen that has a server in it.
const SERVER: &str = " [0-9A-F]{8} ";

/// The servers of kubelet's connections: one line, sorted. The kernel writes addresses and ports of
/// `/proc/net/ip_vs_conn` in hexadecimal.
const SERVERS: &str = r#"ss -Htnp state established | sed -n 's/.*:\([0-9]*\) *@VIP@:6443 .*"kubelet".*/\1/p' | while read -r port; do
  awk -v port="$(printf '%04X' "$port")" '$3 == port && $8 == "ESTABLISHED" { print $6 }' /proc/net/ip_vs_conn
done | sort -u | tr '\n' ' '"#;

/// The watch, running on a node.
#[derive(Debug)]
pub struct KubeletFlow<'a>(&'a Vm);

/// kubelet's servers from that time on, in seconds since the guest's boot.
pub type Seen = Vec<(f64, BTreeSet<String>)>;

impl<'a> KubeletFlow<'a> {
    /// Returns when kubelet was seen connected.
    pub fn start(node: &'a Vm, vip: &str) -> Result<Self> {
        let servers = SERVERS.replace("@VIP@", &vip.replace('.', "\\."));
        node.ok(&format!("rm -rf {FOLDER}"))?;
        let script = on_change(&servers, &format!("{FOLDER}/seen"));
        guest_loop::start(node, UNIT, FOLDER, &script)
            .context("starting to watch kubelet's connection")?;
        let flow = Self(node);
        flow.wait_until(
            Duration::from_secs(120),
            &format!("grep -qE '{SERVER}' {FOLDER}/seen"),
        )?;
        Ok(flow)
    }

    /// The address of the server kubelet is connected to now.
    pub fn server(&self) -> Result<String> {
        let seen = parse(&self.0.ok(&format!("cat {FOLDER}/seen"))?)?;
        let (_, servers) = seen.last().context("nothing was seen")?;
        servers.first().cloned().context("kubelet is not connected")
    }

    /// Waits until kubelet is connected, and not to `dead`.
    pub fn wait_for_another(&self, guest: Duration, dead: &str) -> Result<()> {
        let hex = hex(dead)?;
        self.wait_until(
            guest,
            &format!(
                "now=$(tail -n1 {FOLDER}/seen); echo \"$now\" | grep -qE '{SERVER}' && ! echo \"$now\" | grep -q {hex}"
            ),
        )
        .with_context(|| format!("waiting for kubelet to leave {dead}"))
    }

    pub fn stop(self) -> Result<Seen> {
        let text = self.0.ok(&format!(
            "systemctl stop firstlight-{UNIT}; cat {FOLDER}/seen"
        ))?;
        parse(&text).with_context(|| format!("reading what was seen: `{text}`"))
    }

    fn wait_until(&self, guest: Duration, question: &str) -> Result<()> {
        let script = format!("until {question}; do sleep 0.2; done");
        self.0.ok_within(&script, guest).map(drop)
    }
}

/// How long after `since` kubelet was connected to something else than `dead` alone, if it ever was.
pub fn back_after(seen: &Seen, since: f64, dead: &str) -> Option<f64> {
    // What it was when the fault came is the last before it.
    let first = seen.iter().rposition(|(at, _)| *at <= since).unwrap_or(0);
    let left = first
        + seen[first..]
            .iter()
            .position(|(_, servers)| !servers.contains(dead))?;
    let back = seen[left..]
        .iter()
        .find(|(_, servers)| !servers.is_empty() && !servers.contains(dead))?;
    Some((back.0 - since).max(0.0))
}

fn parse(text: &str) -> Result<Seen> {
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
        let seen = parse("10.0 C0A8070A \n20.5 \n21.0 C0A8070B \n40.0 C0A8070A C0A8070B \n")?;
        assert_eq!(back_after(&seen, 20.0, "192.168.7.10"), Some(1.0));
        // It was elsewhere already.
        assert_eq!(back_after(&seen, 30.0, "192.168.7.10"), Some(0.0));
        assert_eq!(back_after(&seen, 20.0, "192.168.7.11"), Some(0.0));
        assert_eq!(back_after(&seen, 50.0, "192.168.7.11"), None);
        assert_eq!(hex("192.168.7.10")?, "C0A8070A");
        assert!(parse("x").is_err());
        Ok(())
    }
}
