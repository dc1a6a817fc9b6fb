//! Virtual servers, real servers and counters, from their attributes.
//!
//! Parsing never fails on services of other programs: an unknown identity is `Identity::Other`, and
//! missing fields are zero.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::attributes::{
    Address, BigEndian, DestinationAttribute, Flags, InfoAttribute, Nested, ServiceAttribute,
    StatsAttribute, Text,
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;

/// The kernel sets it on every service (`IP_VS_SVC_F_HASHED`).
const FLAG_HASHED: u32 = 0x2;

/// The identity of a virtual server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    Address { protocol: u16, address: SocketAddr },
    FwMark { family: u16, mark: u32 },
    Other,
}

impl Identity {
    pub const fn tcp(address: SocketAddr) -> Self {
        Self::Address {
            protocol: IPPROTO_TCP,
            address,
        }
    }

    /// The identifying attributes, enough for every command except `NEW` and `SET`.
    pub fn attributes(self) -> Vec<ServiceAttribute> {
        match self {
            Self::Address { protocol, address } => vec![
                ServiceAttribute::Family(family(address.ip())),
                ServiceAttribute::Protocol(protocol),
                ServiceAttribute::Address(encode(address.ip())),
                ServiceAttribute::Port(BigEndian(address.port())),
            ],
            Self::FwMark { family, mark } => vec![
                ServiceAttribute::Family(family),
                ServiceAttribute::FwMark(mark),
            ],
            Self::Other => Vec::new(),
        }
    }
}

/// A virtual server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub identity: Identity,
    pub scheduler: String,
    /// Without the kernel's own bit.
    pub flags: u32,
    /// Persistence timeout in seconds.
    pub timeout: u32,
    /// In the encoding of the attribute.
    pub netmask: u32,
    pub stats: Stats,
}

impl Service {
    /// A plain TCP service: no flags, no persistence.
    pub fn tcp(address: SocketAddr, scheduler: &str) -> Self {
        // For IPv6 the kernel reads a prefix length where IPv4 has a mask; 0 is EINVAL.
        let netmask = if address.is_ipv4() { u32::MAX } else { 128 };
        let identity = Identity::tcp(address);
        Self {
            identity,
            scheduler: scheduler.to_owned(),
            flags: 0,
            timeout: 0,
            netmask,
            stats: Stats::default(),
        }
    }

    /// The attributes for `NEW` and `SET`.
    pub fn attributes(&self) -> Vec<ServiceAttribute> {
        let mut attributes = self.identity.attributes();
        attributes.extend([
            ServiceAttribute::Scheduler(Text(self.scheduler.clone())),
            ServiceAttribute::Flags(Flags {
                flags: self.flags,
                mask: u32::MAX,
            }),
            ServiceAttribute::Timeout(self.timeout),
            ServiceAttribute::Netmask(self.netmask),
        ]);
        attributes
    }

    pub fn from_attributes(attributes: &[ServiceAttribute]) -> Self {
        let (mut family, mut protocol, mut address, mut port, mut mark) = (0, 0, None, 0, None);
        let (mut scheduler, mut flags, mut timeout, mut netmask) = (String::new(), 0, 0, 0);
        let mut stats = Stats::default();
        for attribute in attributes {
            match attribute {
                ServiceAttribute::Family(value) => family = *value,
                ServiceAttribute::Protocol(value) => protocol = *value,
                ServiceAttribute::Address(value) => address = Some(*value),
                ServiceAttribute::Port(value) => port = value.0,
                ServiceAttribute::FwMark(value) => mark = Some(*value),
                ServiceAttribute::Scheduler(value) => scheduler.clone_from(&value.0),
                ServiceAttribute::Flags(value) => flags = value.flags & !FLAG_HASHED,
                ServiceAttribute::Timeout(value) => timeout = *value,
                ServiceAttribute::Netmask(value) => netmask = *value,
                ServiceAttribute::Stats64(value) => stats = Stats::from_attributes(value),
                ServiceAttribute::PersistenceEngine(_) | ServiceAttribute::Other(_) => {}
            }
        }
        let identity = match (mark, address.and_then(|address| decode(family, address))) {
            (Some(mark), _) => Identity::FwMark { family, mark },
            (None, Some(ip)) => Identity::Address {
                protocol,
                address: SocketAddr::new(ip, port),
            },
            (None, None) => Identity::Other,
        };
        Self {
            identity,
            scheduler,
            flags,
            timeout,
            netmask,
            stats,
        }
    }
}

/// The forwarding method; the kernel chooses LOCALNODE and BYPASS itself, and lvscare never
/// requests them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarding(pub u32);

impl Forwarding {
    /// NAT: the only method that needs no configuration on the servers.
    pub const MASQUERADE: Self = Self(0);
    /// `IP_VS_CONN_F_FWD_MASK`.
    const MASK: u32 = 7;
}

/// A real server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    pub address: SocketAddr,
    pub forwarding: Forwarding,
    pub weight: u32,
    pub upper_threshold: u32,
    pub lower_threshold: u32,
    pub active_connections: u32,
    pub inactive_connections: u32,
    pub stats: Stats,
}

impl Destination {
    pub fn masquerade(address: SocketAddr, weight: u32) -> Self {
        Self {
            address,
            forwarding: Forwarding::MASQUERADE,
            weight,
            upper_threshold: 0,
            lower_threshold: 0,
            active_connections: 0,
            inactive_connections: 0,
            stats: Stats::default(),
        }
    }

    /// The attributes for `NEW` and `SET`; `DEL` uses the first two.
    pub fn attributes(&self) -> Vec<DestinationAttribute> {
        vec![
            DestinationAttribute::Address(encode(self.address.ip())),
            DestinationAttribute::Port(BigEndian(self.address.port())),
            DestinationAttribute::Forwarding(self.forwarding.0),
            DestinationAttribute::Weight(self.weight),
            DestinationAttribute::UpperThreshold(self.upper_threshold),
            DestinationAttribute::LowerThreshold(self.lower_threshold),
            DestinationAttribute::Family(family(self.address.ip())),
        ]
    }

    /// The family is that of `service` if the kernel does not send it. `None` without a readable
    /// address.
    pub fn from_attributes(
        service: SocketAddr,
        attributes: &[DestinationAttribute],
    ) -> Option<Self> {
        let (mut family, mut address, mut port) = (family(service.ip()), None, 0);
        let mut found = Self::masquerade(service, 0);
        for attribute in attributes {
            match attribute {
                DestinationAttribute::Family(value) => family = *value,
                DestinationAttribute::Address(value) => address = Some(*value),
                DestinationAttribute::Port(value) => port = value.0,
                DestinationAttribute::Forwarding(value) => {
                    found.forwarding = Forwarding(value & Forwarding::MASK);
                }
                DestinationAttribute::Weight(value) => found.weight = *value,
                DestinationAttribute::UpperThreshold(value) => found.upper_threshold = *value,
                DestinationAttribute::LowerThreshold(value) => found.lower_threshold = *value,
                DestinationAttribute::ActiveConnections(value) => found.active_connections = *value,
                DestinationAttribute::InactiveConnections(value) => {
                    found.inactive_connections = *value;
                }
                DestinationAttribute::Stats64(value) => found.stats = Stats::from_attributes(value),
                DestinationAttribute::PersistentConnections(_) | DestinationAttribute::Other(_) => {
                }
            }
        }
        found.address = SocketAddr::new(decode(family, address?)?, port);
        Some(found)
    }
}

/// Counters since the entry was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub connections: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
}

impl Stats {
    fn from_attributes(attributes: &Nested<StatsAttribute>) -> Self {
        let mut stats = Self::default();
        for attribute in &attributes.0 {
            match attribute {
                StatsAttribute::Connections(value) => stats.connections = *value,
                StatsAttribute::InBytes(value) => stats.in_bytes = *value,
                StatsAttribute::OutBytes(value) => stats.out_bytes = *value,
                StatsAttribute::InPackets(_)
                | StatsAttribute::OutPackets(_)
                | StatsAttribute::Other(_) => {}
            }
        }
        stats
    }
}

/// Version and size of the kernel's IPVS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Info {
    /// `0x010201` is 1.2.1.
    pub version: u32,
    pub connection_table_size: u32,
}

impl Info {
    pub(super) fn from_attributes(attributes: &[InfoAttribute]) -> Self {
        let mut info = Self::default();
        for attribute in attributes {
            match attribute {
                InfoAttribute::Version(value) => info.version = *value,
                InfoAttribute::ConnectionTableSize(value) => info.connection_table_size = *value,
                InfoAttribute::Other(_) => {}
            }
        }
        info
    }
}

fn family(address: IpAddr) -> u16 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn encode(address: IpAddr) -> Address {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes = address.octets(),
    }
    Address(bytes)
}

fn decode(family: u16, Address(bytes): Address) -> Option<IpAddr> {
    match family {
        AF_INET => bytes
            .first_chunk()
            .map(|octets: &[u8; 4]| Ipv4Addr::from(*octets).into()),
        AF_INET6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_service_survives_its_attributes(address: SocketAddr, scheduler in "[a-z]{1,15}") {
            let service = Service::tcp(plain(address), &scheduler);
            prop_assert_eq!(Service::from_attributes(&service.attributes()), service);
        }

        #[test]
        fn a_destination_survives_its_attributes(address: SocketAddr, weight in 0..=i32::MAX.cast_unsigned()) {
            let destination = Destination::masquerade(plain(address), weight);
            prop_assert_eq!(Destination::from_attributes(destination.address, &destination.attributes()), Some(destination));
        }
    }

    /// Netlink cannot encode a flow label or a zone.
    fn plain(address: SocketAddr) -> SocketAddr {
        SocketAddr::new(address.ip(), address.port())
    }

    #[test]
    fn a_firewall_mark_service_is_named_by_its_mark() {
        let found = Service::from_attributes(&[
            ServiceAttribute::Family(AF_INET),
            ServiceAttribute::FwMark(7),
        ]);
        assert_eq!(
            found.identity,
            Identity::FwMark {
                family: AF_INET,
                mark: 7
            }
        );
    }

    #[test]
    fn an_unknown_family_is_other_and_not_an_error() {
        let found = Service::from_attributes(&[
            ServiceAttribute::Family(44),
            ServiceAttribute::Address(Address([9; 16])),
        ]);
        assert_eq!(found.identity, Identity::Other);
    }

    #[test]
    fn destination_without_family_inherits_the_service_family() {
        let service: SocketAddr = "[fd97::2]:6443".parse().unwrap();
        let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
        let attributes = [
            DestinationAttribute::Address(encode(address.into())),
            DestinationAttribute::Port(BigEndian(6443)),
        ];
        let found = Destination::from_attributes(service, &attributes).unwrap();
        assert_eq!(found.address, SocketAddr::new(address.into(), 6443));
    }
}
