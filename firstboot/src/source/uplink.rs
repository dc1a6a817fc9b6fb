//! The network that a source in the network needs, before there is a document.

use std::time::Duration;

use anyhow::{Context, Result};
use userdata::network::Network;

use crate::system::files::Root;
use crate::system::{netlink, systemd};

/// Volatile, and after every other file: the document's own network takes its place.
const FOLDER: &str = "/run/systemd/network";

/// Asks for leases on every connected port unless the machine has a network already, and waits for
/// an address.
pub(super) fn wait(root: &Root, deadline: Duration) -> Result<()> {
    if !root.is_machine() {
        return Ok(());
    }
    let configured = root.list("/etc/systemd/network")?;
    if !configured.iter().any(|name| name.ends_with(".network")) {
        let (name, text) = Network::fallback();
        root.write_volatile(format!("{FOLDER}/{name}"), text.as_bytes())?;
        systemd::reload("systemd-networkd.service").context("starting the network")?;
    }
    if let Err(error) = netlink::wait_for_any_address(deadline) {
        // The server may be on the link itself; its own deadline decides.
        log::warn!("no address for the network yet: {error:#}");
    }
    Ok(())
}
