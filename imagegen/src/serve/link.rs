//! The network card of this machine on which machines are served.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};
use ipnet::Ipv4Net;
use nix::ifaddrs::getifaddrs;

/// A network card of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub address: Ipv4Addr,
    pub prefix: u8,
}

impl Link {
    /// The card `name` with its first IPv4 address.
    pub fn find(name: &str) -> Result<Self> {
        let mut known = Vec::new();
        for entry in getifaddrs().context("listing the network cards")? {
            let address = entry
                .address
                .and_then(|at| at.as_sockaddr_in().map(|at| at.ip()));
            let mask = entry
                .netmask
                .and_then(|at| at.as_sockaddr_in().map(|at| at.ip()));
            if entry.interface_name == name
                && let (Some(address), Some(mask)) = (address, mask)
            {
                let prefix = ipnet::ipv4_mask_to_prefix(mask)
                    .with_context(|| format!("the card `{name}` has the mask {mask}"))?;
                return Ok(Self {
                    name: name.to_owned(),
                    address,
                    prefix,
                });
            }
            if !known.contains(&entry.interface_name) {
                known.push(entry.interface_name);
            }
        }
        match known.iter().any(|known| known == name) {
            true => {
                bail!("the card `{name}` has no IPv4 address; give it one of the hosts' network")
            }
            false => bail!("there is no card `{name}`; there are {}", known.join(", ")),
        }
    }

    /// The network of its address.
    pub fn network(&self) -> Result<Ipv4Net> {
        let network = Ipv4Net::new(self.address, self.prefix);
        Ok(network
            .with_context(|| format!("the prefix of `{}`", self.name))?
            .trunc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_card_is_named_with_those_that_exist() {
        let error = format!("{:#}", Link::find("no-such-card").expect_err("missing"));
        assert!(
            error.contains("no-such-card") && error.contains("lo"),
            "{error}"
        );
    }
}
