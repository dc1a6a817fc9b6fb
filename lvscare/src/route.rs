//! The route of the virtual IP: `local <VIP> dev lo table local src <this node>`.
//!
//! Local, so that packets reach IPVS and never leave the node. With a source, because IPVS rewrites
//! only the destination, after the socket has chosen its source. No device has the address, and
//! there is no netfilter rule.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Context;
use futures_util::TryStreamExt;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use nix::errno::Errno;
use rtnetlink::{Handle, RouteMessageBuilder};

/// The protocol number of our route, to distinguish it from others (`ip route show table local
/// proto 76`). Not one of the kernel's well-known numbers.
const PROTOCOL: u8 = 76;

/// `RT_TABLE_LOCAL`.
const TABLE_LOCAL: u8 = 255;

/// The loopback device is number 1 in every network namespace.
const LOOPBACK: u32 = 1;

/// The source that this node uses towards most of `servers`; in a tie the first. `None` if no
/// server is reachable.
pub async fn source_towards(handle: &Handle, servers: &[IpAddr]) -> anyhow::Result<Option<IpAddr>> {
    let mut sources = Vec::new();
    for &server in servers {
        if let Some(route) = look_up(handle, server, RouteFlags::empty()).await? {
            sources.extend(source_of(&route));
        }
    }
    Ok(majority(&sources))
}

/// The source of our route to `vip`; `None` if it is missing or differs.
pub async fn current(handle: &Handle, vip: IpAddr) -> anyhow::Result<Option<IpAddr>> {
    // The entry itself, not the resolved route; at constant cost, unlike a dump.
    let Some(route) = look_up(handle, vip, RouteFlags::FibMatch).await? else {
        return Ok(None);
    };
    let header = &route.header;
    // The table is not compared: without policy rules the kernel keeps local routes in the main
    // table and reports that.
    let is_ours = header.kind == RouteType::Local
        && header.protocol == RouteProtocol::from(PROTOCOL)
        && header.destination_prefix_length == full_prefix(vip);
    Ok(if is_ours { source_of(&route) } else { None })
}

/// Creates the route or replaces our previous one.
pub async fn put(handle: &Handle, vip: IpAddr, source: IpAddr) -> anyhow::Result<()> {
    let mut request = handle.route().add(ours(vip, Some(source))?);
    if vip.is_ipv4() {
        request = request.replace();
    } else {
        // For IPv6 the kernel compares more than the destination and would add a second route.
        remove(handle, vip).await?;
    }
    request
        .execute()
        .await
        .with_context(|| format!("routing `{vip}` to this host with source `{source}`"))
}

/// Removes the route if it exists.
pub async fn remove(handle: &Handle, vip: IpAddr) -> anyhow::Result<()> {
    match handle.route().del(ours(vip, None)?).execute().await {
        Err(rtnetlink::Error::NetlinkError(error)) if is(&error, &[Errno::ESRCH]) => Ok(()),
        done => done.with_context(|| format!("removing the route to `{vip}`")),
    }
}

fn ours(vip: IpAddr, source: Option<IpAddr>) -> anyhow::Result<RouteMessage> {
    let mut route = RouteMessageBuilder::<IpAddr>::new()
        .table_id(TABLE_LOCAL.into())
        .kind(RouteType::Local)
        .scope(if vip.is_ipv4() {
            RouteScope::Host
        } else {
            RouteScope::Universe
        })
        .protocol(RouteProtocol::from(PROTOCOL))
        .output_interface(LOOPBACK)
        .destination_prefix(vip, full_prefix(vip))?;
    if let Some(source) = source {
        route = route.pref_source(source)?;
    }
    Ok(route.build())
}

async fn look_up(
    handle: &Handle,
    address: IpAddr,
    flags: RouteFlags,
) -> anyhow::Result<Option<RouteMessage>> {
    let mut request = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, full_prefix(address))?
        .build();
    // The builder sets table, type and protocol, which a query must not have.
    request.header.table = 0;
    request.header.kind = RouteType::Unspec;
    request.header.protocol = RouteProtocol::Unspec;
    request.header.flags = flags;
    match handle.route().get(request).execute().try_next().await {
        Ok(route) => Ok(route),
        Err(rtnetlink::Error::NetlinkError(error)) if is(&error, &UNREACHABLE) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("asking for the route to `{address}`")),
    }
}

/// No route, a prohibiting route, or no IPv6.
const UNREACHABLE: [Errno; 7] = [
    Errno::ENETUNREACH,
    Errno::EHOSTUNREACH,
    Errno::ESRCH,
    Errno::EINVAL,
    Errno::EACCES,
    Errno::EAFNOSUPPORT,
    Errno::ENETDOWN,
];

fn is(error: &netlink_packet_core::ErrorMessage, any: &[Errno]) -> bool {
    any.contains(&Errno::from_raw(error.raw_code().saturating_neg()))
}

fn source_of(route: &RouteMessage) -> Option<IpAddr> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
            _ => None,
        })
}

fn full_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn majority(sources: &[IpAddr]) -> Option<IpAddr> {
    let mut votes = BTreeMap::new();
    for source in sources {
        *votes.entry(source).or_insert(0) += 1;
    }
    let most = votes.values().copied().max()?;
    sources.iter().copied().find(|source| votes[source] == most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_frequent_source_wins_and_ties_take_the_first() {
        let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
        let table: [(&[u8], Option<u8>); 5] = [
            (&[], None),
            (&[7], Some(7)),
            (&[1, 2, 2], Some(2)),
            (&[9, 1], Some(9)),
            (&[3, 1, 1, 3], Some(3)),
        ];
        for (sources, expected) in table {
            let sources: Vec<_> = sources.iter().copied().map(ip).collect();
            assert_eq!(majority(&sources), expected.map(ip), "{sources:?}");
        }
    }
}
