//! The parameters of bonds and bridges.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

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
    pub mii_monitor_interval: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_links: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transmit_hash_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ad_select: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_delay: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_delay: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_over_mac_policy: Option<String>,
    /// netplan misspelt it once and still takes that.
    #[serde(alias = "gratuitious-arp", skip_serializing_if = "Option::is_none")]
    pub gratuitous_arp: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_reselect_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    #[serde(alias = "all-slaves-active", skip_serializing_if = "Option::is_none")]
    pub all_members_active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arp_interval: Option<Time>,
    #[serde(
        deserialize_with = "super::values::one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub arp_ip_targets: Vec<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arp_validate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arp_all_targets: Option<String>,
    #[serde(alias = "packets-per-slave", skip_serializing_if = "Option::is_none")]
    pub packets_per_member: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resend_igmp: Option<u32>,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learn_packet_interval: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stp: Option<bool>,
    /// Of members, by their id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub path_cost: BTreeMap<String, u32>,
    /// Of members, by their id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub port_priority: BTreeMap<String, u32>,
    #[serde(alias = "aging-time", skip_serializing_if = "Option::is_none")]
    pub ageing_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_delay: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hello_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Time>,
}

/// A time as systemd reads it: `100`, `100ms`, `1s`. What a bare number counts depends on the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Time(String);

impl Time {
    /// With `unit` if it is a bare number.
    pub fn with_unit(&self, unit: &str) -> String {
        if self.0.bytes().all(|b| b.is_ascii_digit()) {
            format!("{}{unit}", self.0)
        } else {
            self.0.clone()
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = text.bytes().take_while(u8::is_ascii_digit).count();
        let unit = &text[number..];
        let units = ["", "us", "ms", "s", "sec", "m", "min", "h", "d"];
        if number == 0 || number > 9 || !units.contains(&unit) {
            return Err(de::Error::custom(
                "not a time, such as `100`, `100ms` or `1s`",
            ));
        }
        Ok(Time(text))
    }
}
