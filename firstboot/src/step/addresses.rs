//! Waits until the node's addresses are usable.
//!
//! `network.rs` configures them. A separate step, because a wait at every boot is not a change to
//! the host.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Step;
use crate::report::Reporter;
use crate::system::netlink::DesiredAddress;
use crate::system::{netlink, systemd};

/// Long enough for a switch's spanning tree to enable a port.
const DEADLINE: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub struct Addresses {
    pub desired: Vec<DesiredAddress>,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self
            .desired
            .iter()
            .map(|desired| desired.address.to_string())
            .collect();
        write!(f, "wait for {}", addresses.join(", "))
    }
}

impl Step for Addresses {
    fn name(&self) -> &'static str {
        "addresses"
    }

    fn is_done(&self) -> Result<bool> {
        netlink::has_addresses(&self.desired)
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        // At a later boot it may still be starting, and after a failed reload its files are unread.
        systemd::start("systemd-networkd.service")?;
        systemd::reload("systemd-networkd.service")?;
        netlink::wait_for_addresses(&self.desired, DEADLINE).context(
            "waiting for this node's addresses; compare the document's `network-config` with the machine",
        )
    }

    fn is_lasting(&self) -> bool {
        false
    }

    fn needs_machine(&self) -> bool {
        true
    }
}
