//! Lasting network configuration for systemd-networkd, and waiting until the node's addresses can be used.
//!
//! What the files say comes from the document; this writes them, has them read, and waits for the kernel.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Step;
use crate::document::HostNetwork;
use crate::report::Reporter;
use crate::system::files::{Attributes, Root};
use crate::system::{netlink, systemd};

const DIRECTORY: &str = "/etc/systemd/network";
/// How `userdata` names our files, so that those of an earlier document can be told from somebody else's.
const PREFIX: &str = "10-firstlight-";
/// Long enough for a switch's spanning tree to let a port through.
const DEADLINE: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub struct Network {
    pub root: Root,
    pub network: HostNetwork,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self
            .network
            .wanted
            .iter()
            .map(|wanted| wanted.address.to_string())
            .collect();
        write!(f, "configure the network")?;
        if !addresses.is_empty() {
            write!(f, " and wait for {}", addresses.join(", "))?;
        }
        Ok(())
    }
}

impl Step for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(self.stale()?.is_empty()
            && self.files_are_there()?
            && (!self.root.is_machine() || netlink::has_addresses(&self.network.wanted)?))
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        let mut changed = false;
        for name in self.stale()? {
            self.root.remove(format!("{DIRECTORY}/{name}"))?;
            log::info!("removed `{DIRECTORY}/{name}`");
            changed = true;
        }
        for (name, text) in &self.network.files {
            let path = path(name);
            if self
                .root
                .write(&path, text.as_bytes(), Attributes::mode(0o644))?
            {
                log::info!("wrote `{path}`");
                changed = true;
            }
        }
        if self.root.is_machine() {
            // Unchanged files and no address: networkd may still be starting; only a change is worth a reload.
            if changed {
                systemd::reload("systemd-networkd.service")?;
            } else {
                systemd::start("systemd-networkd.service")?;
            }
            netlink::wait_for_addresses(&self.network.wanted, DEADLINE)
                .context("waiting for this node's addresses; compare the document's `network-config` with the machine")?;
        }
        Ok(())
    }
}

impl Network {
    fn files_are_there(&self) -> Result<bool> {
        for (name, text) in &self.network.files {
            if !self
                .root
                .holds(path(name), text.as_bytes(), Attributes::mode(0o644))?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Our files that this document does not name.
    fn stale(&self) -> Result<Vec<String>> {
        let wanted: Vec<_> = self.network.files.iter().map(|(name, _)| name).collect();
        let names = self.root.list(DIRECTORY)?;
        Ok(names
            .into_iter()
            .filter(|name| name.starts_with(PREFIX) && !wanted.contains(&name))
            .collect())
    }
}

fn path(name: &str) -> String {
    format!("{DIRECTORY}/{name}")
}
