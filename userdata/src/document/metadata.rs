//! `meta-data`: the instance ID and, in a seed for several hosts, the machine that each document is
//! for.

use std::fmt;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::network::MacAddress;
use crate::value;
use yaml::{self, Diagnostic, Diagnostics, Parsed};

/// YAML or JSON. Unknown keys are allowed: other clients write their own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct MetaData {
    pub instance_id: Option<String>,
    pub local_hostname: Option<String>,
    #[serde(alias = "public_keys", deserialize_with = "public_keys")]
    pub public_keys: Vec<String>,
    #[serde(rename = "match")]
    pub matching: HostMatch,
}

/// Identifies the machine that a document is for. All given properties must match; of several MAC
/// addresses, one is enough.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostMatch {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<MacAddress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// The identity of a machine, from its network cards and SMBIOS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    pub macs: Vec<MacAddress>,
    /// SMBIOS `product_uuid`.
    pub uuid: Option<String>,
    /// SMBIOS `product_serial`.
    pub serial: Option<String>,
}

/// Keys that other clients give a meaning and nothing here reads, with what to write instead.
const NOT_READ: &[(&str, &str)] = &[
    ("hostname", "write `local-hostname`"),
    ("interfaces", NETWORK),
    ("local_hostname", "write `local-hostname`"),
    ("network", NETWORK),
    ("network-config", NETWORK),
    ("network-interfaces", NETWORK),
    ("network_config", NETWORK),
    ("network_data", NETWORK),
    (
        "seedfrom",
        "put `user-data` and `meta-data` into this seed: nothing is fetched",
    ),
    ("user-data", "put it into the file `user-data` of the seed"),
    (
        "vendor-data",
        "put it into the file `vendor-data` of the seed",
    ),
];
const NETWORK: &str = "put the file `network-config` (version 2) into the seed";

impl MetaData {
    pub fn parse(name: &str, bytes: &[u8]) -> Result<(MetaData, Vec<Diagnostic>), Diagnostics> {
        read(name, bytes).map(|(parsed, notices)| (parsed.value, notices))
    }
}

/// [`MetaData::parse`] with the positions.
pub(super) fn read(
    name: &str,
    bytes: &[u8],
) -> Result<(Parsed<MetaData>, Vec<Diagnostic>), Diagnostics> {
    let (parsed, mut found) =
        yaml::parse_leniently::<MetaData>(name, super::text(name, bytes)?, true);
    let Some(parsed) = parsed else {
        return Err(found);
    };
    let (meta, spans) = (&parsed.value, &parsed.spans);
    if let Some(hostname) = &meta.local_hostname
        && let Err(invalid) = value::dns_name(&hostname.to_ascii_lowercase())
    {
        found.push_unless_known(spans.error_at("local-hostname", invalid.message, invalid.help));
    }
    if meta
        .matching
        .uuid
        .as_deref()
        .is_some_and(|uuid| hex(uuid).is_none())
    {
        let help = "as in `4c4c4544-0050-3710-8058-b4c04f4b3532`".to_owned();
        found.push_unless_known(spans.error_at("match.uuid", "not a UUID", Some(help)));
    }
    for (key, help) in NOT_READ {
        // `interfaces: auto` is what cloud-localds writes for the default.
        let is_name = key.ends_with("hostname") && meta.local_hostname.is_some();
        if !spans.is_null(key) && spans.text(key) != Some("auto") && !is_name {
            let message = format!("`{key}` in meta-data is not read");
            found.push(spans.warning_at_key(key, message, Some((*help).to_owned())));
        }
    }
    found.sort();
    let notices = found.into_result()?;
    Ok((parsed, notices))
}

/// All of the meta-data, for templates; null if it is not readable, which [`read`] reports.
pub(super) fn values(bytes: &[u8]) -> serde_json::Value {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let (read, _) = yaml::parse_leniently::<serde_json::Value>("meta-data", text, true);
    read.map(|read| read.value).unwrap_or_default()
}

impl HostMatch {
    /// Without properties, a document that is alone in its seed is for every machine.
    pub fn is_empty(&self) -> bool {
        *self == HostMatch::default()
    }

    /// False if no property is given.
    pub fn matches(&self, machine: &Machine) -> bool {
        let macs = self.macs.is_empty() || self.macs.iter().any(|mac| machine.macs.contains(mac));
        let uuid = self.uuid.as_deref().is_none_or(|wanted| {
            machine
                .uuid
                .as_deref()
                .is_some_and(|uuid| same_uuid(wanted, uuid))
        });
        let serial = self.serial.as_deref().is_none_or(|wanted| {
            machine
                .serial
                .as_deref()
                .is_some_and(|serial| serial.trim() == wanted.trim())
        });
        !self.is_empty() && macs && uuid && serial
    }
}

/// Whether a serial number or UUID is what firmware has where its maker wrote none. Many machines
/// have the same one, so it identifies none of them.
pub fn is_placeholder(value: &str) -> bool {
    /// Of mainboards whose maker left the firmware vendor's example.
    const EXAMPLE: &str = "03000200040005000006000700080009";
    const TEXTS: [&str; 12] = [
        "to be filled by o.e.m.",
        "default string",
        "system serial number",
        "chassis serial number",
        "not specified",
        "not applicable",
        "not available",
        "empty",
        "none",
        "n/a",
        "oem",
        "0123456789",
    ];
    let text = value.trim().to_ascii_lowercase();
    let bare: String = text.chars().filter(|c| *c != '-').collect();
    let repeats = |c: char| !bare.is_empty() && bare.chars().all(|other| other == c);
    bare.is_empty()
        || TEXTS.contains(&text.as_str())
        || bare == EXAMPLE
        || repeats('0')
        || bare.len() > 1 && (repeats('f') || repeats('x'))
}

fn hex(uuid: &str) -> Option<String> {
    let digits: String = uuid.trim().chars().filter(|c| *c != '-').collect();
    (digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| digits.to_ascii_lowercase())
}

/// Firmware before SMBIOS 2.6 shows the first three fields in the other byte order.
fn same_uuid(a: &str, b: &str) -> bool {
    let (Some(a), Some(b)) = (hex(a), hex(b)) else {
        return false;
    };
    let swap = |field: &str| -> String {
        let pairs: Vec<&str> = (0..field.len() / 2)
            .map(|i| &field[2 * i..2 * i + 2])
            .collect();
        pairs.into_iter().rev().collect()
    };
    let swapped = format!(
        "{}{}{}{}",
        swap(&b[..8]),
        swap(&b[8..12]),
        swap(&b[12..16]),
        &b[16..]
    );
    a == b || a == swapped
}

/// Text with one key per line, a list, or OpenStack's mapping of names to any of these, as
/// cloud-init's `normalize_pubkey_data` takes them.
fn public_keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Keys::deserialize(deserializer).map(|keys| keys.0)
}

struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shapes;
        impl<'de> Visitor<'de> for Shapes {
            type Value = Vec<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("SSH keys: text, a list, or a mapping of names to keys")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                Ok(lines.map(str::to_owned).collect())
            }

            fn visit_unit<E: de::Error>(self) -> Result<Vec<String>, E> {
                Ok(Vec::new())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<String>, A::Error> {
                let mut keys = Vec::new();
                while let Some(item) = items.next_element::<Keys>()? {
                    keys.extend(item.0);
                }
                Ok(keys)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<String>, A::Error> {
                let mut keys = Vec::new();
                while let Some((_, value)) = map.next_entry::<String, Keys>()? {
                    keys.extend(value.0);
                }
                Ok(keys)
            }
        }
        deserializer.deserialize_any(Shapes).map(Keys)
    }
}
