//! rtnetlink as blocking functions: links, addresses, and waiting for an address to be usable.
//!
//! Changes nothing: systemd-networkd configures links.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};

use super::runtime::block_on;

/// An address that must be on the link with this MAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredAddress {
    /// Lower case, with colons; `None` for any link.
    pub mac: Option<String>,
    pub address: IpAddr,
}

struct LinkState {
    name: String,
    mac: String,
    lower_up: bool,
}

/// Waits until every desired address is on its link, the link has a carrier, and duplicate address
/// detection is over. An error at the deadline names what is missing.
pub fn wait_for_addresses(desired: &[DesiredAddress], deadline: Duration) -> Result<()> {
    block_on(async {
        // Subscribe before checking, so that no change is missed in between.
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, handle, mut events) =
            new_multicast_connection(&groups).context("opening a netlink socket")?;
        tokio::spawn(connection);
        let end = tokio::time::Instant::now() + deadline;
        loop {
            let missing = missing(&handle, desired).await?;
            if missing.is_empty() {
                return Ok(());
            }
            match tokio::time::timeout_at(end, events.next()).await {
                Ok(Some(_)) => {}
                Ok(None) => bail!("reading netlink events: the socket was closed"),
                Err(_) => bail!("{} after {} s", missing.join("; "), deadline.as_secs()),
            }
        }
    })
}

/// Waits until any link but loopback has a usable address of global scope.
pub fn wait_for_any_address(deadline: Duration) -> Result<()> {
    block_on(async {
        let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, mut events) =
            new_multicast_connection(&groups).context("opening a netlink socket")?;
        tokio::spawn(connection);
        let end = tokio::time::Instant::now() + deadline;
        loop {
            if all_addresses(&handle).await?.iter().any(is_global) {
                return Ok(());
            }
            match tokio::time::timeout_at(end, events.next()).await {
                Ok(Some(_)) => {}
                Ok(None) => bail!("reading netlink events: the socket was closed"),
                Err(_) => bail!("no link has an address after {} s", deadline.as_secs()),
            }
        }
    })
}

fn is_global(message: &AddressMessage) -> bool {
    message.header.scope == AddressScope::Universe
        && !flags_of(message).intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
}

/// Whether all desired addresses are usable now.
pub fn has_addresses(desired: &[DesiredAddress]) -> Result<bool> {
    block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("opening a netlink socket")?;
        tokio::spawn(connection);
        Ok(missing(&handle, desired).await?.is_empty())
    })
}

/// The hardware's address of each link that has one, by the link's name.
pub fn permanent_addresses() -> Result<BTreeMap<String, String>> {
    block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("opening a netlink socket")?;
        tokio::spawn(connection);
        let addresses = all_links(&handle).await?.into_iter().filter_map(|message| {
            let (mut name, mut permanent) = (None, None);
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(text) => name = Some(text),
                    LinkAttribute::PermAddress(bytes) => permanent = Some(mac(&bytes)),
                    _ => {}
                }
            }
            name.zip(permanent)
        });
        Ok(addresses.collect())
    })
}

fn mac(bytes: &[u8]) -> String {
    let pairs: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(":")
}

/// The reason for each desired address that is not usable yet.
async fn missing(handle: &Handle, desired: &[DesiredAddress]) -> Result<Vec<String>> {
    let links = links(handle).await?;
    let addresses = all_addresses(handle).await?;
    Ok(desired
        .iter()
        .filter_map(|one| obstacle(one, &links, &addresses))
        .collect())
}

async fn all_addresses(handle: &Handle) -> Result<Vec<AddressMessage>> {
    let messages = handle.address().get().execute().try_collect();
    messages.await.context("listing the addresses")
}

async fn all_links(handle: &Handle) -> Result<Vec<LinkMessage>> {
    let messages = handle.link().get().execute().try_collect();
    messages.await.context("listing the links")
}

async fn links(handle: &Handle) -> Result<BTreeMap<u32, LinkState>> {
    Ok(all_links(handle)
        .await?
        .into_iter()
        .map(|message| {
            let mut state = LinkState {
                name: String::new(),
                mac: String::new(),
                lower_up: message.header.flags.contains(LinkFlags::LowerUp),
            };
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => state.name = name,
                    LinkAttribute::Address(bytes) => state.mac = mac(&bytes),
                    _ => {}
                }
            }
            (message.header.index, state)
        })
        .collect())
}

fn obstacle(
    desired: &DesiredAddress,
    links: &BTreeMap<u32, LinkState>,
    addresses: &[AddressMessage],
) -> Option<String> {
    let matches = |link: &LinkState| desired.mac.as_ref().is_none_or(|mac| link.mac == *mac);
    if let Some(mac) = &desired.mac
        && !links.values().any(matches)
    {
        let known: Vec<_> = links
            .values()
            .map(|link| format!("{} {}", link.name, link.mac))
            .collect();
        return Some(format!(
            "no link has the MAC {mac} (found: {})",
            known.join(", ")
        ));
    }
    let found = addresses.iter().find(|message| {
        address_of(message) == Some(desired.address)
            && links.get(&message.header.index).is_some_and(matches)
    });
    let Some(message) = found else {
        return Some(format!("{} is not on its link", desired.address));
    };
    let flags = flags_of(message);
    let link = &links[&message.header.index];
    if flags.contains(AddressFlags::Dadfailed) {
        Some(format!(
            "{} on `{}` is used by another machine",
            desired.address, link.name
        ))
    } else if flags.contains(AddressFlags::Tentative) {
        Some(format!(
            "{} on `{}` is still being checked for duplicates",
            desired.address, link.name
        ))
    } else if !link.lower_up {
        Some(format!(
            "`{}` ({}) has no carrier; is its cable plugged in?",
            link.name, link.mac
        ))
    } else {
        None
    }
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    // The local end; on a point-to-point link `Address` is the peer's.
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
    local.or_else(|| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
    })
}

fn flags_of(message: &AddressMessage) -> AddressFlags {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Flags(flags) => Some(*flags),
            _ => None,
        })
        .unwrap_or_else(AddressFlags::empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_usable_and_an_unknown_mac_is_an_error() {
        let local = DesiredAddress {
            mac: None,
            address: "127.0.0.1".parse().unwrap(),
        };
        wait_for_addresses(&[local], Duration::from_secs(5)).unwrap();
        let remote = DesiredAddress {
            mac: Some("02:00:00:ff:ff:01".into()),
            address: "192.0.2.1".parse().unwrap(),
        };
        assert!(!has_addresses(std::slice::from_ref(&remote)).unwrap());
        let error = wait_for_addresses(&[remote], Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("no link has the MAC 02:00:00:ff:ff:01 (found: "),
            "{error}"
        );
    }
}
