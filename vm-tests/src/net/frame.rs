//! The fields of an Ethernet frame that the switch reads.

use std::net::IpAddr;

/// A MAC address from exactly six bytes.
pub(crate) fn mac(bytes: &[u8]) -> [u8; 6] {
    let mut mac = [0; 6];
    mac.copy_from_slice(bytes);
    mac
}

/// ICMPv6 in a packet without extension headers, and its neighbour solicitation (RFC 4861, 4.3).
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;

/// The destination of an IPv4 or IPv6 packet, or the target of an ARP request or a neighbour
/// solicitation.
pub(crate) fn destination(frame: &[u8]) -> Option<IpAddr> {
    let four = |at: usize| {
        Some(IpAddr::from(
            <[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?,
        ))
    };
    match frame.get(12..14)? {
        [0x08, 0x00] => four(30),
        [0x08, 0x06] => four(38),
        [0x86, 0xdd] => {
            let solicits =
                frame.get(20) == Some(&ICMPV6) && frame.get(54) == Some(&NEIGHBOUR_SOLICITATION);
            let at = if solicits { 62 } else { 38 };
            Some(IpAddr::from(
                <[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?,
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destination_is_read_from_ip_arp_and_neighbour_solicitation() {
        let mut packet = [0; 80];
        packet[12..14].copy_from_slice(&[8, 0]);
        packet[30..34].copy_from_slice(&[192, 168, 7, 10]);
        assert_eq!(destination(&packet), Some(IpAddr::from([192, 168, 7, 10])));
        packet[12..14].copy_from_slice(&[8, 6]);
        packet[38..42].copy_from_slice(&[192, 168, 7, 1]);
        assert_eq!(destination(&packet), Some(IpAddr::from([192, 168, 7, 1])));
        assert_eq!(destination(&packet[..20]), None);
        let six = |last: u8| {
            let mut address = [0; 16];
            (address[0], address[15]) = (0xfd, last);
            address
        };
        packet[12..14].copy_from_slice(&[0x86, 0xdd]);
        packet[38..54].copy_from_slice(&six(1));
        packet[62..78].copy_from_slice(&six(2));
        assert_eq!(destination(&packet), Some(IpAddr::from(six(1))));
        (packet[20], packet[54]) = (ICMPV6, NEIGHBOUR_SOLICITATION);
        assert_eq!(destination(&packet), Some(IpAddr::from(six(2))));
    }
}
