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

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        // At a later boot it may still be starting, and after a failed reload its files are unread.
        systemd::start("systemd-networkd.service")?;
        systemd::reload("systemd-networkd.service")?;
        let waited = netlink::wait_for_addresses(&self.desired, DEADLINE).context(
            "waiting for this node's addresses; compare the document's `network-config` with the machine",
        );
        match waited {
            Err(error) if netlink::has_addresses(&needed(&self.desired))? => {
                report.degraded(&format!("{error:#}"));
                Ok(())
            }
            waited => waited,
        }
    }

    fn is_lasting(&self) -> bool {
        false
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

/// The addresses without which the host has no place in its cluster: the first of each family,
/// which kubelet and the static pods use. Others are of links that the cluster can do without.
fn needed(desired: &[DesiredAddress]) -> Vec<DesiredAddress> {
    let first = |ipv6: bool| {
        let mut of_family = desired.iter().filter(|one| one.address.is_ipv6() == ipv6);
        of_family.next().cloned()
    };
    [first(false), first(true)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_address_of_each_family_is_needed() {
        let desired = |addresses: &[&str]| -> Vec<DesiredAddress> {
            let each = addresses.iter().map(|address| DesiredAddress {
                mac: None,
                address: address.parse().unwrap(),
            });
            each.collect()
        };
        let all = ["10.0.0.1", "10.9.0.1", "fd00::1", "fd09::1"];
        assert_eq!(needed(&desired(&all)), desired(&["10.0.0.1", "fd00::1"]));
        assert_eq!(needed(&desired(&all[2..])), desired(&["fd00::1"]));
        assert_eq!(needed(&[]), []);
    }
}
