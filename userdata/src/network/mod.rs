//! `network-config`, version 2: netplan's format, the part that servers use.
//!
//! Version 1 and the devices of laptops (Wi-Fi, modems, tunnels) are refused with a specific error.

mod check;
mod networkd;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

pub use values::{Destination, MacAddress};

use yaml::{self, Diagnostic, Diagnostics, Parsed};

/// The devices by their netplan id, which is the interface's name when nothing else matches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Always 2.
    #[serde(deserialize_with = "values::version")]
    pub version: u8,
    /// Read and ignored: systemd-networkd it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renderer: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ethernets: BTreeMap<String, Device>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bonds: BTreeMap<String, Device>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bridges: BTreeMap<String, Device>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vlans: BTreeMap<String, Device>,
}

impl Default for Network {
    fn default() -> Self {
        let none = BTreeMap::new;
        Network {
            version: 2,
            renderer: None,
            ethernets: none(),
            bonds: none(),
            bridges: none(),
            vlans: none(),
        }
    }
}

/// One interface. Which keys fit which kind of device is checked after reading.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Device {
    /// Ethernets only.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<Match>,
    /// Ethernets only, and only with `match`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_name: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub wakeonlan: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dhcp4: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dhcp6: bool,
    #[serde(rename = "dhcp4-overrides", skip_serializing_if = "Option::is_none")]
    pub dhcp4_overrides: Option<Overrides>,
    #[serde(rename = "dhcp6-overrides", skip_serializing_if = "Option::is_none")]
    pub dhcp6_overrides: Option<Overrides>,
    /// `mac` or `duid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp_identifier: Option<String>,
    #[serde(
        deserialize_with = "values::addresses",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub addresses: Vec<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway4: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nameservers: Option<Nameservers>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routing_policy: Vec<Rule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macaddress: Option<MacAddress>,
    /// Boot does not wait for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_ra: Option<bool>,
    /// `ipv4`, `ipv6`; `None` is netplan's default, `[ipv6]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_local: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ignore_carrier: bool,
    /// Bonds and bridges only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
    /// Bonds and bridges only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Parameters>,
    /// VLANs only, 0 to 4094.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    /// VLANs only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// A shell pattern on the kernel's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macaddress: Option<MacAddress>,
    #[serde(
        deserialize_with = "values::one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub driver: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nameservers {
    #[serde(
        deserialize_with = "values::one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub addresses: Vec<IpAddr>,
    #[serde(
        deserialize_with = "values::one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub search: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Overrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_dns: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_ntp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_mtu: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_routes: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_hostname: Option<bool>,
    /// `true`, `false` or `route`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_domains: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_hostname: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route_metric: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Route {
    pub to: Destination,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_link: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// `unicast`, `blackhole`, `unreachable`, `prohibit`, `local`, …
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `global`, `link`, `host`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Destination>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Destination>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
}

/// Of bonds and of bridges; times of bonds in milliseconds, of bridges in seconds, as netplan has
/// them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Parameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacp_rate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mii_monitor_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_links: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transmit_hash_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ad_select: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_delay: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_delay: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_over_mac_policy: Option<String>,
    /// netplan misspelt it once and still takes that.
    #[serde(alias = "gratuitious-arp", skip_serializing_if = "Option::is_none")]
    pub gratuitous_arp: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_reselect_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ageing_time: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_delay: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hello_time: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    network: Network,
}

impl Network {
    /// Reads a `network-config`, with or without the outer `network:`. `None` for an empty text or
    /// `config: disabled`.
    pub fn parse(
        name: &str,
        text: &str,
    ) -> Result<(Option<Network>, Vec<Diagnostic>), Diagnostics> {
        let (top, unreadable) = yaml::parse_leniently::<IgnoredAny>(name, text, false);
        let Some(Parsed { spans: top, .. }) = top else {
            return Err(unreadable);
        };
        let wrapped = top.get("network").is_some();
        let prefix = if wrapped { "network." } else { "" };
        let keys: Vec<&str> = top.keys(if wrapped { "network" } else { "" }).collect();
        let version = top.text(&format!("{prefix}version"));
        if keys.is_empty() && top.is_null(if wrapped { "network" } else { "" }) {
            return Ok((None, Vec::new()));
        }
        if keys.contains(&"config") && top.text(&format!("{prefix}config")) == Some("disabled") {
            return Ok((None, Vec::new()));
        }
        if version == Some("1") || (version.is_none() && keys.contains(&"config")) {
            let at = if version.is_some() {
                "version"
            } else {
                "config"
            };
            let help =
                "write version 2: `ethernets` with `match`, `addresses`, `routes`".to_owned();
            let message = "network configuration of version 1 is not supported";
            return Err(top
                .error_at(&format!("{prefix}{at}"), message, Some(help))
                .into());
        }
        let (network, mut found) = if wrapped {
            let (read, found) = yaml::parse_leniently::<Wrapped>(name, text, false);
            (
                read.map(|read| Parsed {
                    value: read.value.network,
                    spans: read.spans,
                }),
                found,
            )
        } else {
            yaml::parse_leniently::<Network>(name, text, false)
        };
        if let Some(network) = &network {
            check::devices(network, prefix, &mut found);
            found.sort();
        }
        let notices = found.into_result()?;
        Ok((network.map(|network| network.value), notices))
    }

    /// Of every kind.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        let kinds = [&self.ethernets, &self.bonds, &self.bridges, &self.vlans];
        kinds.into_iter().flat_map(BTreeMap::values)
    }

    /// Files for `/etc/systemd/network`, by name; the same network gives the same files.
    pub fn to_networkd(&self) -> Vec<(String, String)> {
        networkd::files(self)
    }
}
