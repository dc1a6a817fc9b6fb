//! The fields of an Ethernet frame that the switch reads.

use std::net::IpAddr;

/// A MAC address from exactly six bytes.
pub(crate) fn mac(bytes: &[u8]) -> [u8; 6] {
    let mut mac = [0; 6];
    mac.copy_from_slice(bytes);
    mac
}

/// The destination of an IPv4 or IPv6 packet, or the target of an ARP request.
pub(crate) fn destination(frame: &[u8]) -> Option<IpAddr> {
    let four = |at: usize| {
        Some(IpAddr::from(
            <[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?,
        ))
    };
    match frame.get(12..14)? {
        [0x08, 0x00] => four(30),
        [0x08, 0x06] => four(38),
        [0x86, 0xdd] => Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(38..54)?).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destination_is_read_from_ip_and_arp() {
        let mut packet = [0; 80];
        packet[12..14].copy_from_slice(&[8, 0]);
        packet[30..34].copy_from_slice(&[192, 168, 7, 10]);
        assert_eq!(destination(&packet), Some(IpAddr::from([192, 168, 7, 10])));
        packet[12..14].copy_from_slice(&[8, 6]);
        packet[38..42].copy_from_slice(&[192, 168, 7, 1]);
        assert_eq!(destination(&packet), Some(IpAddr::from([192, 168, 7, 1])));
        assert_eq!(destination(&packet[..20]), None);
    }
}
