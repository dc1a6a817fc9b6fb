//! Which network card an address belongs to: the kernel's table of neighbours.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use userdata::network::MacAddress;

/// The kernel's table for IPv4. A request has just come from the address, so that it is in it.
const TABLE: &str = "/proc/net/arp";

#[derive(Debug, Clone)]
pub struct Neighbours(PathBuf);

impl Default for Neighbours {
    fn default() -> Self {
        Self(TABLE.into())
    }
}

impl Neighbours {
    /// Reads a table at another place.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// `None` for an address behind a router, and for this machine's own.
    pub fn mac(&self, address: IpAddr) -> Option<MacAddress> {
        let IpAddr::V4(address) = address else {
            return None;
        };
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        let mut found = None;
        for line in text.lines().skip(1) {
            // Address, type, flags, MAC, mask, device.
            let mut fields = line.split_ascii_whitespace();
            let same = fields.next().and_then(|text| text.parse().ok()) == Some(address);
            let flags = fields.nth(1).map(|text| text.trim_start_matches("0x"));
            let flags = flags.and_then(|text| u32::from_str_radix(text, 16).ok());
            // ATF_COM: the entry is complete.
            if !same || flags.is_none_or(|flags| flags & 2 == 0) {
                continue;
            }
            let mac = fields.next().and_then(|text| text.parse().ok());
            if found.is_some() && found != mac {
                // One address on two networks: the machine behind it is uncertain.
                return None;
            }
            found = mac;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_and_unambiguous_entries_count() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("arp");
        fs::write(
            &path,
            "IP address       HW type     Flags       HW address            Mask     Device\n\
             10.0.0.5         0x1         0x2         52:54:00:00:00:05     *        eth0\n\
             10.0.0.6         0x1         0x0         00:00:00:00:00:00     *        eth0\n\
             10.0.0.7         0x1         0x2         52:54:00:00:00:07     *        eth0\n\
             10.0.0.7         0x1         0x2         52:54:00:00:00:08     *        eth1\n",
        )?;
        let table = Neighbours::at(&path);
        let mac = |address: &str| table.mac(address.parse().ok()?).map(|mac| mac.to_string());
        assert_eq!(mac("10.0.0.5").as_deref(), Some("52:54:00:00:00:05"));
        for unknown in ["10.0.0.6", "10.0.0.7", "10.0.0.9", "fe80::1"] {
            assert_eq!(mac(unknown), None, "{unknown}");
        }
        Ok(())
    }
}
