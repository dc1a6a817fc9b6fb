//! `network-config`, version 2: netplan's format, the part that servers use; and version 1, which is
//! read as the version 2 that it means.
//!
//! The devices of laptops (Wi-Fi, modems), Open vSwitch and WireGuard are refused with a specific
//! error.

mod check;
mod device;
mod networkd;
mod not_done;
mod parameters;
mod tunnel;
mod v1;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

pub use device::{AddressOptions, Device, Match, Nameservers, Overrides, RaOverrides, Route, Rule};
pub use parameters::{Parameters, Time};
pub use tunnel::TunnelKeys;
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
    #[serde(
        default,
        deserialize_with = "values::devices",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub ethernets: BTreeMap<String, Device>,
    #[serde(
        default,
        deserialize_with = "values::devices",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub bonds: BTreeMap<String, Device>,
    #[serde(
        default,
        deserialize_with = "values::devices",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub bridges: BTreeMap<String, Device>,
    #[serde(
        default,
        deserialize_with = "values::devices",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub vlans: BTreeMap<String, Device>,
    #[serde(
        default,
        rename = "dummy-devices",
        deserialize_with = "values::devices",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub dummy_devices: BTreeMap<String, Device>,
    #[serde(
        default,
        rename = "virtual-ethernets",
        deserialize_with = "values::devices",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub virtual_ethernets: BTreeMap<String, Device>,
    #[serde(
        default,
        deserialize_with = "values::devices",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub tunnels: BTreeMap<String, Device>,
    #[serde(
        default,
        deserialize_with = "values::devices",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub vrfs: BTreeMap<String, Device>,
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
            dummy_devices: none(),
            virtual_ethernets: none(),
            tunnels: none(),
            vrfs: none(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    network: Network,
}

impl Network {
    /// Reads a `network-config`, with or without the outer `network:`. `None` for an empty text or
    /// `config: disabled`. A tunnel has keys and a Wi-Fi network a password, so no finding shows a
    /// line of the text.
    pub fn parse(
        name: &str,
        text: &str,
    ) -> Result<(Option<Network>, Vec<Diagnostic>), Diagnostics> {
        let (top, unreadable) = yaml::parse_leniently::<IgnoredAny>(name, text, true);
        let Some(Parsed { spans: top, .. }) = top else {
            return Err(unreadable);
        };
        let wrapped = top.get("network").is_some();
        let prefix = if wrapped { "network." } else { "" };
        let keys: Vec<&str> = top.keys(if wrapped { "network" } else { "" }).collect();
        let version = top.text(&format!("{prefix}version"));
        // Nothing, or an empty mapping.
        let at = if wrapped { "network" } else { "" };
        let is_list = top.get(&format!("{at}[0]")).is_some();
        if keys.is_empty() && (top.is_null(at) || top.text(at).is_none() && !is_list) {
            return Ok((None, Vec::new()));
        }
        if keys.contains(&"config") && top.text(&format!("{prefix}config")) == Some("disabled") {
            return Ok((None, Vec::new()));
        }
        let is_first = version == Some("1") || (version.is_none() && keys.contains(&"config"));
        let (mut network, mut found) = if is_first {
            v1::parse(name, text, wrapped)
        } else if wrapped {
            let (read, found) = yaml::parse_unquoted::<Wrapped>(name, text);
            (
                read.map(|read| Parsed {
                    value: read.value.network,
                    spans: read.spans,
                }),
                found,
            )
        } else {
            yaml::parse_unquoted::<Network>(name, text)
        };
        not_done::name_keys(text, &mut found);
        if let Some(network) = &mut network {
            if !is_first {
                device::address_options(network, prefix, &mut found);
            }
            check::devices(network, prefix, &mut found);
            found.sort();
        }
        let notices = found.into_result()?;
        Ok((network.map(|network| network.value), notices))
    }

    /// Whether the text wants no network at all: `config: disabled`.
    pub fn is_disabled(text: &str) -> bool {
        let (top, _) = yaml::parse_leniently::<IgnoredAny>("", text, true);
        top.is_some_and(|Parsed { spans, .. }| {
            let config = |path: &str| spans.text(path) == Some("disabled");
            config("config") || config("network.config")
        })
    }

    /// Of every kind.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        let kinds = check::kinds_of(self).into_iter();
        kinds.flat_map(|(_, devices)| devices.values())
    }

    /// Files for `/etc/systemd/network`, by name; the same network gives the same files.
    pub fn to_networkd(&self) -> Vec<(String, String)> {
        networkd::files(self)
    }

    /// The file for a host without `network-config`: DHCP on every connected port. Any other file
    /// for a port comes first.
    pub fn fallback() -> (String, String) {
        networkd::fallback()
    }
}
