//! The address plan of a testbed, IPv4 or IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::bail;

const PORT: u16 = 6443;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        match text {
            "4" => Ok(Self::V4),
            "6" => Ok(Self::V6),
            other => bail!("family `{other}` is neither 4 nor 6"),
        }
    }
}

/// The addresses of one testbed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Net {
    pub(crate) testbed: u8,
    pub(crate) family: Family,
}

impl Net {
    pub(crate) fn master(self, n: u8) -> SocketAddr {
        SocketAddr::new(self.host(10 + n), PORT)
    }

    pub(crate) fn worker(self, n: u8) -> IpAddr {
        self.host(20 + n)
    }

    pub(crate) fn service(self) -> SocketAddr {
        let vip = match self.family {
            Family::V4 => Ipv4Addr::new(10, 103, 97, 2).into(),
            Family::V6 => Ipv6Addr::new(0xfd97, 0, 0, 0, 0, 0, 0, 2).into(),
        };
        SocketAddr::new(vip, PORT)
    }

    pub(crate) fn loopback(self) -> SocketAddr {
        match self.family {
            Family::V4 => SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
            Family::V6 => SocketAddr::from((Ipv6Addr::LOCALHOST, PORT)),
        }
    }

    pub(crate) fn prefix(self) -> u8 {
        match self.family {
            Family::V4 => 24,
            Family::V6 => 64,
        }
    }

    pub(crate) fn host(self, n: u8) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(10, self.testbed, 0, n).into(),
            Family::V6 => {
                Ipv6Addr::new(0xfd00, self.testbed.into(), 0, 0, 0, 0, 0, n.into()).into()
            }
        }
    }

    /// Both ends of the veth pair between a worker and its pod.
    pub(crate) fn pod(self, n: u8) -> [IpAddr; 2] {
        [1, 2].map(|end| match self.family {
            Family::V4 => Ipv4Addr::new(10, 244, n, end).into(),
            Family::V6 => Ipv6Addr::new(0xfd44, n.into(), 0, 0, 0, 0, 0, end.into()).into(),
        })
    }
}
