//! Flexible fields of the format: clients write them as text, as a list or not at all.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Text, or a list of texts: `groups: "a, b"`, `sudo: [..]`, `chpasswd.list`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OneOrMany(pub(super) Vec<String>);

/// A line for the shell, or the words of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Shell(String),
    Argv(Vec<String>),
}

enum Loose {
    Text(String),
    List(Vec<String>),
    Map(Vec<(String, OneOrMany)>),
    Nothing,
}

impl Loose {
    /// For fields that cannot be a mapping.
    fn no_map<E: de::Error>(self) -> Result<Loose, E> {
        match self {
            Loose::Map(_) => Err(E::invalid_type(
                de::Unexpected::Map,
                &"text or a list of texts",
            )),
            other => Ok(other),
        }
    }

    fn texts(self) -> Vec<String> {
        match self {
            Loose::Text(text) => vec![text],
            Loose::List(list) => list,
            Loose::Map(_) | Loose::Nothing => Vec::new(),
        }
    }
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Loose;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Loose, E> {
                Ok(Loose::Text(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Loose, E> {
                Ok(Loose::Text(number.to_string()))
            }

            fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Loose, E> {
                // `sudo: false` is how cloud-init says "none"; `true` names the program.
                Ok(if flag {
                    Loose::Text("true".to_owned())
                } else {
                    Loose::Nothing
                })
            }

            fn visit_unit<E: de::Error>(self) -> Result<Loose, E> {
                Ok(Loose::Nothing)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Loose, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element::<String>()? {
                    list.push(item);
                }
                Ok(Loose::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Loose::Map(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let loose = Loose::deserialize(deserializer)?.no_map()?;
        Ok(OneOrMany(loose.texts()))
    }
}

/// A null item is skipped, as cloud-init does.
pub(super) fn commands<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Command>, D::Error> {
    struct Item(Loose);
    impl<'de> Deserialize<'de> for Item {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Loose::deserialize(deserializer)?.no_map().map(Item)
        }
    }
    let items = Vec::<Item>::deserialize(deserializer)?;
    Ok(items
        .into_iter()
        .filter_map(|Item(item)| match item {
            Loose::Text(line) => Some(Command::Shell(line)),
            Loose::List(words) if words.is_empty() => None,
            Loose::List(words) => Some(Command::Argv(words)),
            Loose::Map(_) | Loose::Nothing => None,
        })
        .collect())
}

/// One or many names, separated by commas; of a mapping, its keys: `groups` of a user.
pub(super) fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let all = match Loose::deserialize(deserializer)? {
        Loose::Map(entries) => entries.into_iter().map(|(name, _)| name).collect(),
        loose => loose.texts(),
    };
    Ok(all
        .iter()
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

/// One or many texts; of a mapping, its values: `ssh_authorized_keys` of a user.
pub(super) fn values<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OneOrMany, D::Error> {
    Ok(OneOrMany(match Loose::deserialize(deserializer)? {
        Loose::Map(entries) => entries.into_iter().flat_map(|(_, one)| one.0).collect(),
        loose => loose.texts(),
    }))
}
