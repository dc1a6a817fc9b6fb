//! The keys of tunnels that tell packets of one from those of another: `key: 5`, or
//! `keys: {input: 5, output: 1.2.3.4}`.

use std::fmt;
use std::net::Ipv4Addr;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

/// Numbers or dotted quads, as networkd takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunnelKeys {
    pub input: Option<String>,
    pub output: Option<String>,
}

impl Serialize for TunnelKeys {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let both = [("input", &self.input), ("output", &self.output)];
        let given = both.into_iter().filter(|(_, value)| value.is_some());
        serializer.collect_map(given)
    }
}

impl<'de> Deserialize<'de> for TunnelKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = TunnelKeys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key, or a mapping with `input` and `output`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TunnelKeys, E> {
                let key = Some(checked(text)?);
                Ok(TunnelKeys {
                    input: key.clone(),
                    output: key,
                })
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<TunnelKeys, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TunnelKeys, A::Error> {
                let mut keys = TunnelKeys::default();
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "input" => keys.input = Some(checked(&map.next_value::<String>()?)?),
                        "output" => keys.output = Some(checked(&map.next_value::<String>()?)?),
                        "private" => {
                            return Err(de::Error::custom("WireGuard is not supported"));
                        }
                        other => {
                            return Err(de::Error::unknown_field(other, &["input", "output"]));
                        }
                    }
                }
                Ok(keys)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

fn checked<E: de::Error>(text: &str) -> Result<String, E> {
    if text.parse::<u32>().is_ok() || text.parse::<Ipv4Addr>().is_ok() {
        return Ok(text.to_owned());
    }
    // Not the text: it may be a private key.
    Err(E::custom(
        "not a key of a tunnel, which is a number up to 4294967295 or a dotted quad",
    ))
}
