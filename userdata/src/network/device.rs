//! The keys of a device.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::tunnel::TunnelKeys;
use super::values::{Destination, MacAddress};
use super::{Network, Parameters};
use yaml::{Diagnostics, Parsed};

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
        deserialize_with = "super::values::addresses",
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
    /// Of addresses that have any; read only.
    #[serde(skip)]
    pub address_options: BTreeMap<IpNet, AddressOptions>,
    /// Read and ignored, as that of the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renderer: Option<String>,
    /// The addresses stay when networkd stops.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub critical: bool,
    /// `manual` or `off`: networkd does not bring the link up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation_mode: Option<String>,
    /// Read and ignored: boot waits for the addresses of the node only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub optional_addresses: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub emit_lldp: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_privacy: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_mtu: Option<u32>,
    /// `eui64` or `stable-privacy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_address_generation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_address_token: Option<Ipv6Addr>,
    /// Ethernets only, as all offloads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_checksum_offload: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transmit_checksum_offload: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_segmentation_offload: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp6_segmentation_offload: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generic_segmentation_offload: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generic_receive_offload: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub large_receive_offload: Option<bool>,
    /// Members of bridges only, as the next two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hairpin: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neigh_suppress: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_mac_learning: Option<bool>,
    /// Bonds, bridges and VRFs only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
    /// Bonds and bridges only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Parameters>,
    /// Of a VLAN, 0 to 4094, or of a VXLAN, 1 to 16777215.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// VLANs and VXLANs only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ra_overrides: Option<RaOverrides>,
    /// `datagram`, `connected` or `kernel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infiniband_mode: Option<String>,
    /// VRFs only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Virtual ethernets only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Tunnels only, as all that follow; which modes take which key is checked after reading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    #[serde(alias = "key", skip_serializing_if = "Option::is_none")]
    pub keys: Option<TunnelKeys>,
    /// VXLANs only, as all that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_learning: Option<bool>,
    #[serde(alias = "aging", skip_serializing_if = "Option::is_none")]
    pub ageing: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arp_proxy: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_circuit: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_of_service: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow_label: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_not_fragment: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The first and the last source port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_range: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notifications: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checksums: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
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
        deserialize_with = "super::values::one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub driver: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nameservers {
    #[serde(
        deserialize_with = "super::values::one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub addresses: Vec<IpAddr>,
    #[serde(
        deserialize_with = "super::values::one_or_many",
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

/// What to take from router advertisements; over the values of DHCP's overrides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RaOverrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_dns: Option<bool>,
    /// `true`, `false` or `route`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_domains: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// In segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion_window: Option<u32>,
    /// In segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertised_receive_window: Option<u32>,
    /// In bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertised_mss: Option<u32>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_of_service: Option<u8>,
}

/// Of one address: `{"192.0.2.6/24": {label: "eth0:vip", lifetime: 0}}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressOptions {
    pub label: Option<String>,
    /// `lifetime: 0`: not for new connections.
    pub deprecated: bool,
}

/// Adds the options of addresses. They stand in the list of addresses, which holds the addresses
/// alone once it is read.
pub(super) fn address_options(parsed: &mut Parsed<Network>, prefix: &str, found: &mut Diagnostics) {
    let spans = &parsed.spans;
    let network = &mut parsed.value;
    let kinds = [
        ("ethernets", &mut network.ethernets),
        ("bonds", &mut network.bonds),
        ("bridges", &mut network.bridges),
        ("vlans", &mut network.vlans),
    ];
    for (kind, devices) in kinds {
        for (id, device) in devices {
            for (i, net) in device.addresses.iter().enumerate() {
                let at = format!("{prefix}{kind}[\"{id}\"].addresses[{i}]");
                let Some(text) = spans.keys(&at).next() else {
                    continue;
                };
                let at = format!("{at}[\"{text}\"]");
                let mut options = AddressOptions::default();
                for key in spans.keys(&at) {
                    let path = format!("{at}.{key}");
                    let value = spans.text(&path).unwrap_or_default();
                    // The kernel's limit is that of interface names.
                    let is_label = !value.is_empty() && value.len() <= 15;
                    let error = match (key, value) {
                        ("lifetime", "0") => {
                            options.deprecated = true;
                            continue;
                        }
                        ("lifetime", "forever") => continue,
                        ("label", label) if is_label && !label.contains(char::is_whitespace) => {
                            options.label = Some(label.to_owned());
                            continue;
                        }
                        ("lifetime", _) => spans.error_at(&path, "expected `0` or `forever`", None),
                        ("label", _) => {
                            spans.error_at(&path, "a label is a word of up to 15 characters", None)
                        }
                        _ => {
                            let help = "known keys here: `label`, `lifetime`";
                            spans.unknown_key(&path, None, help)
                        }
                    };
                    found.push_unless_known(error);
                }
                if options != AddressOptions::default() {
                    device.address_options.insert(*net, options);
                }
            }
        }
    }
}
