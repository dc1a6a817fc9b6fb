//! `/etc/hosts`, and an `/etc/resolv.conf` that is always valid.

use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write;
use std::net::IpAddr;

use anyhow::Result;
use userdata::node_config::{NodeConfig, Role};

use super::Step;
use crate::document::Host;
use crate::report::Reporter;
use crate::system::files::{Attributes, Root};

#[derive(Debug)]
pub struct Hosts {
    root: Root,
    hosts: String,
    /// `None`: the document has no name server, and an existing file stays.
    resolv_conf: Option<String>,
}

impl Hosts {
    pub fn new(root: &Root, host: &Host) -> Self {
        let servers = &host.nameservers;
        let resolv_conf = (!servers.is_empty()).then(|| {
            let mut text =
                String::from("# Written by firstboot from the document's network-config.\n");
            for server in servers {
                let _ = writeln!(text, "nameserver {server}");
            }
            if !host.search.is_empty() {
                let _ = writeln!(text, "search {}", host.search.join(" "));
            }
            text
        });
        Self {
            root: root.clone(),
            hosts: hosts_file(host),
            resolv_conf,
        }
    }

    /// kubelet and CoreDNS read the file and refuse to start without one.
    fn wanted_resolv_conf(&self) -> Result<Option<String>> {
        if self.resolv_conf.is_some() || self.root.exists("/etc/resolv.conf") {
            return Ok(self.resolv_conf.clone());
        }
        Ok(Some(
            "# No name server: every host of the cluster is in /etc/hosts.\n".to_owned(),
        ))
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write /etc/hosts and /etc/resolv.conf")
    }
}

impl Step for Hosts {
    fn name(&self) -> &'static str {
        "hosts"
    }

    fn is_done(&self) -> Result<bool> {
        let resolv_conf = match self.wanted_resolv_conf()? {
            Some(text) => {
                self.root
                    .holds("/etc/resolv.conf", text.as_bytes(), Attributes::mode(0o644))?
            }
            None => true,
        };
        Ok(resolv_conf
            && self
                .root
                .holds("/etc/hosts", self.hosts.as_bytes(), Attributes::mode(0o644))?)
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        self.root
            .write("/etc/hosts", self.hosts.as_bytes(), Attributes::mode(0o644))?;
        if let Some(text) = self.wanted_resolv_conf()? {
            self.root
                .write("/etc/resolv.conf", text.as_bytes(), Attributes::mode(0o644))?;
        }
        Ok(())
    }
}

/// The contents of `/etc/hosts`: this host, its cluster, its apiserver.
pub fn hosts_file(host: &Host) -> String {
    hosts_file_with(host, None)
}

/// As [`hosts_file`], with the apiserver's domain at `apiserver`: while a control-plane host joins,
/// an apiserver that answers.
pub fn hosts_file_with(host: &Host, apiserver: Option<IpAddr>) -> String {
    let mut text = String::from(
        "# Written by firstboot from this host's document; changes are lost at the next boot.\n\
         127.0.0.1 localhost\n\
         ::1 localhost ip6-localhost ip6-loopback\n",
    );
    let mut own: Vec<&str> = host.fqdn.iter().map(String::as_str).collect();
    if !own.contains(&host.hostname.as_str()) {
        own.push(&host.hostname);
    }
    let Some(node) = &host.node else {
        let _ = writeln!(text, "127.0.1.1 {}", own.join(" "));
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
