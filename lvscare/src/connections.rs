//! IPVS's connections, from `/proc/net/ip_vs_conn`: netlink has no listing of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;

const FILE: &str = "/proc/net/ip_vs_conn";

/// One client's connection through a virtual server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    pub client: SocketAddr,
    pub service: SocketAddr,
    pub destination: SocketAddr,
}

/// The TCP connections of this network namespace; none where IPVS is not loaded.
pub fn list() -> anyhow::Result<Vec<Connection>> {
    match std::fs::read_to_string(FILE) {
        Ok(text) => Ok(text.lines().filter_map(parse).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context(format!("reading `{FILE}`")),
    }
}

/// `TCP C0A80714 D2F4 0A676102 192B C0A8070A 192B ESTABLISHED 899`; IPv6 addresses are written out in full,
/// in brackets. The header, other protocols and what a later kernel may add are none.
fn parse(line: &str) -> Option<Connection> {
    let mut fields = line.split_ascii_whitespace();
    if fields.next()? != "TCP" {
        return None;
    }
    let mut end = || {
        Some(SocketAddr::new(
            address(fields.next()?)?,
            u16::from_str_radix(fields.next()?, 16).ok()?,
        ))
    };
    Some(Connection {
        client: end()?,
        service: end()?,
        destination: end()?,
    })
}

fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text
            .trim_matches(['[', ']'])
            .parse::<Ipv6Addr>()
            .ok()
            .map(IpAddr::V6);
    }
    if text.len() != 8 {
        return None;
    }
    u32::from_str_radix(text, 16)
        .ok()
        .map(|bits| Ipv4Addr::from_bits(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_families_are_read_and_the_rest_is_passed_over() {
        let text = "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n\
                    TCP C0A80714 D2F4 0A676102 192B C0A8070A 192B ESTABLISHED     899\n\
                    TCP [fd00:0000:0000:0000:0000:0000:0000:0010] D2F4 [fd97:0000:0000:0000:0000:0000:0000:0002] 192B [fd00:0000:0000:0000:0000:0000:0000:0001] 192B SYN_SENT         59\n\
                    UDP C0A80714 D2F4 0A676102 0035 C0A8070A 0035 UDP             299\n\
                    TCP C0A807\n";
        let found: Vec<_> = text.lines().filter_map(parse).collect();
        let end = |text: &str| text.parse::<SocketAddr>().unwrap();
        let expected = [
            [
                "192.168.7.20:54004",
                "10.103.97.2:6443",
                "192.168.7.10:6443",
            ],
            ["[fd00::10]:54004", "[fd97::2]:6443", "[fd00::1]:6443"],
        ];
        let expected = expected.map(|[client, service, destination]| Connection {
            client: end(client),
            service: end(service),
            destination: end(destination),
        });
        assert_eq!(found, expected);
    }
}
