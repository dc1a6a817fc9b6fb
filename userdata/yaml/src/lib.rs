//! Reads YAML into typed values with the position of every field, and writes YAML that all readers
//! agree on.
//!
//! Only this crate uses `serde_yaml`. Its parser keeps no positions for semantic checks, stops at
//! the first unknown key and guesses types from text. Reading therefore combines an event parser
//! with the target type. `serde_yaml` provides the value tree for writing and verifies the reader
//! in tests.
//!
//! ```text
//! text → read/tree → read/de → value + report/spans
//!             ╰──────────┴────→ report/diagnostic (every error in one run)
//! value → write → text
//! ```

mod merge;
mod read;
mod report;
mod write;

#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use read::{de, recover, scalar, tree};

pub use merge::{MergeRules, Tree};
pub use read::tree::Style;
pub use report::diagnostic::{Diagnostic, Diagnostics, Severity};
pub use report::failure::nearest;
pub use report::region::Region;
pub use report::spans::{Span, Spans};
pub use write::{NotWritable, to_string, try_to_string};

/// A value and the position of each of its fields.
#[derive(Debug, Clone)]
pub struct Parsed<T> {
    pub value: T,
    pub spans: Spans,
}

/// A scalar as written, for fields whose meaning depends on the text: `0644` is octal to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    pub text: String,
    pub style: Style,
}

impl Scalar {
    /// `yes`, `on`, `true` and their opposites, unquoted.
    pub fn as_bool(&self) -> Option<bool> {
        (self.style == Style::Plain)
            .then(|| scalar::boolean(&self.text))
            .flatten()
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> serde::de::Visitor<'de> for Pair {
            type Value = Scalar;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a single value")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut pair: A,
            ) -> Result<Scalar, A::Error> {
                let missing = || serde::de::Error::custom("a single value was expected");
                let text: String = pair.next_element()?.ok_or_else(missing)?;
                let style: String = pair.next_element()?.ok_or_else(missing)?;
                Ok(Scalar {
                    text,
                    style: match style.as_str() {
                        "plain" => Style::Plain,
                        "binary" => Style::Binary,
                        _ => Style::Quoted,
                    },
                })
            }
        }
        deserializer.deserialize_tuple_struct(de::SCALAR, 2, Pair)
    }
}

/// A list of scalars, or one in its place, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scalars(pub Vec<Scalar>);

impl<'de> Deserialize<'de> for Scalars {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shapes;
        impl<'de> serde::de::Visitor<'de> for Shapes {
            type Value = Scalars;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value or a list of values")
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Scalars, E> {
                Ok(Scalars::default())
            }

            fn visit_newtype_struct<D: serde::Deserializer<'de>>(
                self,
                one: D,
            ) -> Result<Scalars, D::Error> {
                Ok(Scalars(vec![Scalar::deserialize(one)?]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut items: A,
            ) -> Result<Scalars, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    all.push(item);
                }
                Ok(Scalars(all))
            }
        }
        deserializer.deserialize_tuple_struct(de::SCALARS, 0, Shapes)
    }
}

/// Reads the single document in `text`. Errors refer to it by `name`: `cluster.yaml`.
///
/// Every unknown key, duplicate key and wrong value is reported in one run, in the order of the
/// text.
pub fn parse<T: DeserializeOwned>(name: &str, text: &str) -> Result<Parsed<T>, Diagnostics> {
    strict(parse_leniently(name, text, false))
}

/// Like [`parse`], for texts that hold secrets: no finding shows a line of the text.
pub fn parse_redacted<T: DeserializeOwned>(
    name: &str,
    text: &str,
) -> Result<Parsed<T>, Diagnostics> {
    strict(parse_leniently(name, text, true))
}

fn strict<T>(read: (Option<Parsed<T>>, Diagnostics)) -> Result<Parsed<T>, Diagnostics> {
    match read {
        (Some(parsed), found) if found.0.is_empty() => Ok(parsed),
        (_, found) => Err(found),
    }
}

/// Returns the value as far as it can be read, and all findings. With errors, the value lacks the
/// fields and list items that they name: use it only to find more errors in the same run. Paths
/// into it use the value's own list positions; findings use those of the text.
pub fn parse_leniently<T: DeserializeOwned>(
    name: &str,
    text: &str,
    redact: bool,
) -> (Option<Parsed<T>>, Diagnostics) {
    read(name, text, redact, false)
}

/// Like [`parse_leniently`] of a text with secrets, for formats whose readers take a quoted boolean
/// or number for one, as netplan's does.
pub fn parse_unquoted<T: DeserializeOwned>(
    name: &str,
    text: &str,
) -> (Option<Parsed<T>>, Diagnostics) {
    read(name, text, true, true)
}

fn read<T: DeserializeOwned>(
    name: &str,
    text: &str,
    redact: bool,
    unquote: bool,
) -> (Option<Parsed<T>>, Diagnostics) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut faults = Vec::new();
    let root = tree::build(text, redact, &mut faults)
        .map_err(|fault| faults.push(fault))
        .ok();
    let broken = root.is_none();
    let mut root = root.unwrap_or_default();
    if unquote {
        root.unquote();
    }
    let mut spans = Spans {
        name: name.to_owned(),
        text: text.to_owned(),
        redact,
        root,
    };
    let mut found = Diagnostics::default();
    for fault in faults {
        found.push(spans.finding(
            "",
            Severity::Error,
            fault.message,
            fault.help,
            &fault.region,
        ));
    }
    let value = if broken {
        None
    } else {
        recover::deserialize(&mut spans, &mut found)
    };
    found.sort();
    (value.map(|value| Parsed { value, spans }), found)
}
