//! Single values of the format: addresses, destinations, MAC addresses, and lists that may be one
//! value.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use super::Device;

/// Lower-case with colons; read with `-` too, and in either case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(String);

impl MacAddress {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MacAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // netplan's words for `macaddress` of a device.
        if ["permanent", "preserve", "random", "stable", "stable-ssid"].contains(&text) {
            return Err("this policy for the MAC address is not supported; write an address");
        }
        let invalid =
            "not a MAC address, which is six pairs of hexadecimal digits: `52:54:00:12:34:56`";
        let parts: Vec<&str> = text.split([':', '-']).collect();
        let pair = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        // An address of InfiniBand has twenty.
        if ![6, 20].contains(&parts.len()) || !parts.iter().all(pair) {
            return Err(invalid);
        }
        Ok(MacAddress(parts.join(":").to_ascii_lowercase()))
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Destination {
    /// `default`: its family is that of the gateway.
    #[default]
    Default,
    Net(IpNet),
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Destination::Default => serializer.serialize_str("default"),
            Destination::Net(net) => serializer.collect_str(net),
        }
    }
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "default" {
            return Ok(Destination::Default);
        }
        let net = net(&text).or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        net.map(Destination::Net)
            .ok_or_else(|| de::Error::custom("not `default`, nor a range such as `10.0.0.0/8`"))
    }
}

/// With a prefix length or, as cloud-init's own page has it, a dotted mask.
fn net(text: &str) -> Option<IpNet> {
    let (address, mask) = text.split_once('/')?;
    match mask.parse::<Ipv4Addr>() {
        Ok(mask) => Ipv4Net::with_netmask(address.parse().ok()?, mask)
            .ok()
            .map(IpNet::V4),
        Err(_) => text.parse().ok(),
    }
}

pub(super) fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    match u8::deserialize(deserializer)? {
        2 => Ok(2),
        _ => Err(de::Error::custom(
            "network configuration is read in version 2 only",
        )),
    }
}

pub(super) fn addresses<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<IpNet>, D::Error> {
    struct Address(IpNet);
    fn read<E: de::Error>(text: &str) -> Result<Address, E> {
        let help = "not an address with its prefix length, such as `192.168.7.10/24`";
        net(text).map(Address).ok_or_else(|| E::custom(help))
    }
    impl<'de> Deserialize<'de> for Address {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Either;
            impl<'de> Visitor<'de> for Either {
                type Value = Address;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an address, or a mapping of one address to its options")
                }

                fn visit_str<E: de::Error>(self, text: &str) -> Result<Address, E> {
                    read(text)
                }

                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Address, A::Error> {
                    let one = || de::Error::custom("an entry with options has one address");
                    // `super::device::address_options` reads the options.
                    let (text, _) = map
                        .next_entry::<String, de::IgnoredAny>()?
                        .ok_or_else(one)?;
                    match map.next_key::<de::IgnoredAny>()? {
                        Some(_) => Err(one()),
                        None => read(&text),
                    }
                }
            }
            deserializer.deserialize_any(Either)
        }
    }
    let list = Vec::<Address>::deserialize(deserializer)?;
    Ok(list.into_iter().map(|address| address.0).collect())
}

/// The devices of one kind, beside which the kind's `renderer` may stand.
pub(super) fn devices<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Device>, D::Error> {
    struct Devices;
    impl<'de> Visitor<'de> for Devices {
        type Value = BTreeMap<String, Device>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a mapping")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut devices = BTreeMap::new();
            while let Some(id) = map.next_key::<String>()? {
                if id == "renderer" {
                    // `check` reads it.
                    map.next_value::<String>()?;
                } else {
                    devices.insert(id, map.next_value()?);
                }
            }
            Ok(devices)
        }
    }
    deserializer.deserialize_map(Devices)
}

/// A list, or one value in its place: `addresses: 8.8.8.8`.
pub(super) fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Either<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(de::value::StrDeserializer::new(text)).map(|one| vec![one])
        }

        fn visit_unit<E: de::Error>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                list.push(item);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_any(Either(PhantomData))
}

pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

pub(super) fn is_file_name(id: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@');
    !id.is_empty() && !id.starts_with('.') && id.len() <= 64 && id.bytes().all(good)
}

/// The kernel's limit is 15 bytes (`IFNAMSIZ` less the NUL).
pub(super) fn is_interface_name(name: &str) -> bool {
    is_file_name(name) && name.len() <= 15
}
