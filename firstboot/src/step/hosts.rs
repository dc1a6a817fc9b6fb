//! `/etc/hosts`, and an `/etc/resolv.conf` that is always valid: `resolv_conf.rs` adds what leases
//! bring.

use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write;
use std::net::IpAddr;

use anyhow::Result;
use userdata::node_config::{NodeConfig, Role};

use super::Step;
use crate::host::Host;
use crate::report::Reporter;
use crate::step::files::Files;
use crate::step::resolv_conf::Resolvers;
use crate::system::files::{Attributes, Root};

const PATH: &str = "/etc/hosts";
const BEGIN: &str = "# firstboot writes the lines up to its next comment at every boot.";
const END: &str = "# End of firstboot's lines. Those below stay.";
const LOOPBACK: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

#[derive(Debug)]
pub struct Hosts {
    root: Root,
    /// `None`: the document leaves `/etc/hosts` to others.
    host: Option<Host>,
    resolvers: Resolvers,
}

impl Hosts {
    pub fn new(root: &Root, host: &Host) -> Self {
        Self {
            root: root.clone(),
            host: (host.manages_hosts || host.node.is_some()).then(|| host.clone()),
            resolvers: Resolvers::new(root, host),
        }
    }

    /// Our lines, and the lines of others as they are now.
    fn wanted_hosts(&self) -> Result<Option<String>> {
        let Some(host) = &self.host else {
            return Ok(None);
        };
        let bytes = self.root.read(PATH)?.unwrap_or_default();
        let others = others(&String::from_utf8_lossy(&bytes));
        Ok(Some(combined(host, None, &others)))
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(_) => f.write_str("write /etc/hosts and /etc/resolv.conf"),
            None => f.write_str("write /etc/resolv.conf"),
        }
    }
}

impl Step for Hosts {
    fn name(&self) -> &'static str {
        "hosts"
    }

    fn is_done(&self) -> Result<bool> {
        let hosts = match self.wanted_hosts()? {
            Some(text) => self
                .root
                .holds(PATH, text.as_bytes(), Attributes::mode(0o644))?,
            None => true,
        };
        Ok(hosts && self.resolvers.are_done()?)
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        if let Some(text) = self.wanted_hosts()? {
            self.root
                .write(PATH, text.as_bytes(), Attributes::mode(0o644))?;
        }
        self.resolvers.apply()
    }
}

/// The contents of `/etc/hosts`: this host, its cluster, its apiserver, and the lines of others.
pub fn hosts_file(host: &Host) -> String {
    hosts_file_with(host, None)
}

/// As [`hosts_file`], with the apiserver's domain at `apiserver`: while a control-plane host joins,
/// an apiserver that answers.
pub fn hosts_file_with(host: &Host, apiserver: Option<IpAddr>) -> String {
    combined(host, apiserver, &host.other_hosts)
}

/// `text` of [`hosts_file_with`] with the lines of others as they are now: a command of the document
/// may have added some since `text` was made.
pub fn with_current_lines(root: &Root, text: &str) -> Result<String> {
    let current = root.read(PATH)?.unwrap_or_default();
    let end = format!("{END}\n");
    let ours = text.find(&end).map_or(text, |at| &text[..at + end.len()]);
    Ok(format!(
        "{ours}{}",
        others(&String::from_utf8_lossy(&current))
    ))
}

/// What `/etc/hosts` holds besides our lines once the document's files are written.
pub fn other_hosts(root: &Root, files: &Files) -> Result<String> {
    let bytes = match files.upcoming(PATH)? {
        Some(bytes) => bytes,
        None => root.read(PATH)?.unwrap_or_default(),
    };
    Ok(others(&String::from_utf8_lossy(&bytes)))
}

/// The lines outside our own. Without them, the lines of the image say what ours do.
fn others(text: &str) -> String {
    let mut ours = false;
    let mut others = String::new();
    for line in text.lines() {
        match line {
            BEGIN => ours = true,
            END => ours = false,
            _ if ours || LOOPBACK.lines().any(|base| same(base, line)) => {}
            line => {
                others.push_str(line);
                others.push('\n');
            }
        }
    }
    others
}

fn same(one: &str, other: &str) -> bool {
    one.split_whitespace().eq(other.split_whitespace())
}

fn combined(host: &Host, apiserver: Option<IpAddr>, others: &str) -> String {
    format!("{BEGIN}\n{}{END}\n{others}", lines(host, apiserver, others))
}

/// Our lines. They come first, because the first line with a name decides its address.
fn lines(host: &Host, apiserver: Option<IpAddr>, others: &str) -> String {
    let mut text = LOOPBACK.to_owned();
    let mut own: Vec<&str> = host.fqdn.iter().map(String::as_str).collect();
    if !own.contains(&host.hostname.as_str()) {
        own.push(&host.hostname);
    }
    let Some(node) = &host.node else {
        // A document that gives its host an address knows better.
        let known = |name: &&str| others.lines().any(|line| has_name(line, name));
        own.retain(|name| !known(name));
        if !own.is_empty() {
            let _ = writeln!(text, "127.0.1.1 {}", own.join(" "));
        }
        return text;
    };
    // The hostname resolves to the node's address, not to loopback: programs that listen or
    // advertise by name must be reachable.
    let own_address = node.addresses.first().map(|address| address.addr());
    if let Some(address) = own_address {
        let _ = writeln!(text, "{address} {}", own.join(" "));
    }
    let mut written: BTreeSet<(IpAddr, &str)> = own_address
        .iter()
        .flat_map(|address| own.iter().map(|name| (*address, *name)))
        .collect();
    for entry in &node.hosts {
        let new: Vec<_> = entry
            .names
            .iter()
            .map(String::as_str)
            // The apiserver's domain depends on the role and follows below.
            .filter(|name| *name != node.apiserver.domain && written.insert((entry.address, name)))
            .collect();
        if !new.is_empty() {
            let _ = writeln!(text, "{} {}", entry.address, new.join(" "));
        }
    }
    let _ = writeln!(
        text,
        "{} {}",
        apiserver.unwrap_or_else(|| apiserver_address(node, own_address)),
        node.apiserver.domain
    );
    text
}

fn has_name(line: &str, name: &str) -> bool {
    let entry = line.split('#').next().unwrap_or_default();
    entry.split_whitespace().skip(1).any(|known| known == name)
}

/// The address of the apiserver's domain: on control-plane hosts their own, on workers the virtual
/// IP.
///
/// While a control-plane host joins it is another apiserver: the step `kubelet-start` sets it, and
/// `domain-local` sets it back.
fn apiserver_address(node: &NodeConfig, own: Option<IpAddr>) -> IpAddr {
    match (node.role, own) {
        (Role::Master0 | Role::Master, Some(own)) => own,
        _ => node.apiserver.vip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_a_command_added_stay_when_the_domain_moves() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let file = |address: &str, rest: &str| {
            format!("{BEGIN}\n{LOOPBACK}{address} api.lab\n{END}\n{rest}")
        };
        let now = file("192.168.7.11", "10.0.0.9 added\n");
        root.write(PATH, now.as_bytes(), Attributes::mode(0o644))
            .unwrap();
        let planned = file("192.168.7.12", "");
        assert_eq!(
            with_current_lines(&root, &planned).unwrap(),
            file("192.168.7.12", "10.0.0.9 added\n")
        );
    }
}
