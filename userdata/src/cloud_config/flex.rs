//! Flexible fields of the format: clients write them as text, as a list or not at all.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

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
    Nothing,
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
        }
        deserializer.deserialize_any(Any)
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(OneOrMany(match Loose::deserialize(deserializer)? {
            Loose::Text(text) => vec![text],
            Loose::List(list) => list,
            Loose::Nothing => Vec::new(),
        }))
    }
}

/// A null item is skipped, as cloud-init does.
pub(super) fn commands<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Command>, D::Error> {
    let items = Vec::<Loose>::deserialize(deserializer)?;
    Ok(items
        .into_iter()
        .filter_map(|item| match item {
            Loose::Text(line) => Some(Command::Shell(line)),
            Loose::List(words) if words.is_empty() => None,
            Loose::List(words) => Some(Command::Argv(words)),
            Loose::Nothing => None,
        })
        .collect())
}
