//! Version 1 as it is written.

use serde::Deserialize;

use crate::network::values::one_or_many;
use yaml::{Scalar, Scalars};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wrapped {
    pub(super) network: Top,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Top {
    #[serde(default)]
    #[allow(dead_code, reason = "read before")]
    version: Option<Scalar>,
    #[serde(default)]
    pub(super) config: Vec<Entry>,
}

/// One device, name server or route. Which keys fit which type is checked by the reader.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Entry {
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// OpenStack's; of no use here.
    #[allow(dead_code, reason = "accepted and ignored")]
    id: Option<Scalar>,
    pub(super) name: Option<String>,
    pub(super) mac_address: Option<String>,
    pub(super) mtu: Option<Scalar>,
    #[serde(alias = "accept-ra")]
    pub(super) accept_ra: Option<Scalar>,
    pub(super) wakeonlan: Option<Scalar>,
    #[allow(dead_code, reason = "networkd always keeps it")]
    keep_configuration: Option<Scalar>,
    pub(super) optional: Option<Scalar>,
    #[serde(deserialize_with = "subnets")]
    pub(super) subnets: Vec<Subnet>,
    #[serde(deserialize_with = "one_or_many")]
    pub(super) bond_interfaces: Vec<String>,
    #[serde(deserialize_with = "one_or_many")]
    pub(super) bridge_interfaces: Vec<String>,
    pub(super) params: std::collections::BTreeMap<String, Scalars>,
    pub(super) vlan_link: Option<String>,
    pub(super) vlan_id: Option<Scalar>,
    #[serde(deserialize_with = "one_or_many")]
    pub(super) address: Vec<String>,
    #[serde(deserialize_with = "one_or_many")]
    pub(super) search: Vec<String>,
    pub(super) interface: Option<String>,
    #[serde(alias = "network")]
    pub(super) destination: Option<String>,
    pub(super) netmask: Option<String>,
    pub(super) gateway: Option<String>,
    pub(super) metric: Option<Scalar>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Subnet {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) address: Option<String>,
    pub(super) netmask: Option<String>,
    #[allow(dead_code, reason = "it follows from address and mask")]
    broadcast: Option<String>,
    pub(super) gateway: Option<String>,
    #[serde(deserialize_with = "one_or_many")]
    pub(super) dns_nameservers: Vec<String>,
    #[serde(deserialize_with = "one_or_many")]
    pub(super) dns_search: Vec<String>,
    pub(super) routes: Vec<Route>,
    pub(super) metric: Option<Scalar>,
    pub(super) mtu: Option<Scalar>,
    pub(super) control: Option<String>,
    #[allow(dead_code, reason = "OpenStack's; the address says it")]
    ipv4: Option<Scalar>,
    #[allow(dead_code, reason = "OpenStack's; the address says it")]
    ipv6: Option<Scalar>,
    #[allow(dead_code, reason = "it has no effect on systemd-networkd")]
    scope: Option<String>,
    #[serde(rename = "pointopoint")]
    pub(super) point_to_point: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Route {
    #[serde(alias = "network")]
    pub(super) destination: Option<String>,
    pub(super) netmask: Option<String>,
    pub(super) prefix: Option<Scalar>,
    pub(super) gateway: Option<String>,
    pub(super) metric: Option<Scalar>,
    pub(super) mtu: Option<Scalar>,
    #[allow(dead_code, reason = "older clients repeat them")]
    id: Option<Scalar>,
    #[serde(rename = "type")]
    #[allow(dead_code, reason = "older clients write `route`")]
    kind: Option<String>,
}

/// A null in place of the list is none.
fn subnets<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Subnet>, D::Error> {
    Ok(Option::<Vec<Subnet>>::deserialize(deserializer)?.unwrap_or_default())
}
