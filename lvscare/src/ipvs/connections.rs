//! The connections of IPVS, from `/proc/net/ip_vs_conn`: netlink cannot list them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;

const FILE: &str = "/proc/net/ip_vs_conn";

/// One client's connection through a virtual server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    pub client: SocketAddr,
    pub service: SocketAddr,
    pub destination: SocketAddr,
    pub phase: Phase,
}

/// The IPVS state of a connection, as far as closing it depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No response of the server yet: the client's next SYN may go to another server.
    Opening,
    Open,
    /// Ended by a reset or by both sides; the entry waits for its timer.
    Over,
}

/// The TCP connections of this network namespace that `wanted` selects; none without IPVS. Reads
/// line by line, because other services may have a hundred thousand connections.
pub fn list(wanted: impl Fn(&Connection) -> bool) -> anyhow::Result<Vec<Connection>> {
    let file = match File::open(FILE) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(format!("opening `{FILE}`")),
    };
    let mut found = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.with_context(|| format!("reading `{FILE}`"))?;
        found.extend(parse(&line).filter(&wanted));
    }
    Ok(found)
}

/// `TCP C0A80714 D2F4 0A676102 192B C0A8070A 192B ESTABLISHED 899`; IPv6 addresses are
/// unabbreviated and in brackets. Skips the header, other protocols and unknown lines.
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
    let [client, service, destination] = [end()?, end()?, end()?];
    let phase = match fields.next()? {
        // A client's SYN shows as SYN_RECV, because IPVS has the server's role.
        "NONE" | "SYN_SENT" | "SYN_RECV" => Phase::Opening,
        "TIME_WAIT" | "CLOSE" => Phase::Over,
        _ => Phase::Open,
    };
    Some(Connection {
        client,
        service,
        destination,
        phase,
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_families_are_parsed_and_other_lines_skipped() {
        let text = "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n\
                    TCP C0A80714 D2F4 0A676102 192B C0A8070A 192B ESTABLISHED     899\n\
                    TCP [fd00:0000:0000:0000:0000:0000:0000:0010] D2F4 [fd97:0000:0000:0000:0000:0000:0000:0002] 192B [fd00:0000:0000:0000:0000:0000:0000:0001] 192B SYN_SENT         59\n\
                    UDP C0A80714 D2F4 0A676102 0035 C0A8070A 0035 UDP             299\n\
                    TCP C0A80714 D2F5 0A676102 192B C0A8070A 192B CLOSE           9\n\
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
            [
                "192.168.7.20:54005",
                "10.103.97.2:6443",
                "192.168.7.10:6443",
            ],
        ];
        let phases = [Phase::Open, Phase::Opening, Phase::Over];
        let expected = expected.iter().zip(phases);
        let expected = expected.map(|([client, service, destination], phase)| Connection {
            client: end(client),
            service: end(service),
            destination: end(destination),
            phase,
        });
        let expected: Vec<_> = expected.collect();
        assert_eq!(found, expected);
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "(TCP |UDP )?[0-9A-F:\\[\\] ]{0,60}( [A-Z_]{0,12})?.{0,8}") {
            let _ = parse(&line);
        }
    }
}
