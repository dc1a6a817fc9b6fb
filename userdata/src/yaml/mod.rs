//! YAML in and out: typed values with the position of every field, and text all readers read alike.
//!
//! The one module that touches `serde_yaml`. Its parser has no positions for semantic checks, stops at the
//! first unknown key and guesses types from text, so reading goes through an event parser and the wanted
//! type; `serde_yaml` gives the value tree that is written, and checks the reader in tests.

mod de;
mod diagnostic;
mod failure;
mod key;
mod scalar;
mod spans;
mod tree;
mod write;

#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use spans::{Region, Span, Spans};
pub use tree::Style;
pub use write::to_string;

use de::NodeDe;
use failure::{Failure, What};
use spans::{Segment, path_of};
use tree::{Fault, Kind, Node};

/// Findings after which a text is not looked at further.
const MAX_FINDINGS: usize = 100;

/// A value and where each of its fields was written.
#[derive(Debug, Clone)]
pub struct Parsed<T> {
    pub value: T,
    pub spans: Spans,
}

impl<T> Parsed<T> {
    /// An error about the field at `path`; `help` says what to write instead.
    pub fn error_at(
        &self,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        self.spans.error_at(path, message, help)
    }

    pub fn warning_at(
        &self,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        self.spans.warning_at(path, message, help)
    }
}

/// A scalar as it was written, for fields whose meaning hangs on their text: `0644` is octal to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    pub text: String,
    pub style: Style,
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

/// Reads the one document in `text`. `name` is what errors call it: `cluster.yaml`.
///
/// Every unknown key, duplicate key and wrong value is reported in one run, in the order of the text.
pub fn parse<T: DeserializeOwned>(name: &str, text: &str) -> Result<Parsed<T>, Diagnostics> {
    read(name, text, false)
}

/// Like [`parse`], for texts that hold secrets: no finding shows a line of the text.
pub fn parse_redacted<T: DeserializeOwned>(
    name: &str,
    text: &str,
) -> Result<Parsed<T>, Diagnostics> {
    read(name, text, true)
}

fn read<T: DeserializeOwned>(
    name: &str,
    text: &str,
    redact: bool,
) -> Result<Parsed<T>, Diagnostics> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut faults = Vec::new();
    let (root, broken) = match tree::build(text, &mut faults) {
        Ok(root) => (root, false),
        Err(fault) => {
            faults.push(fault);
            (
                Node {
                    region: Region::default(),
                    kind: Kind::Seq(Vec::new()),
                },
                true,
            )
        }
    };
    let spans = Spans {
        name: name.to_owned(),
        text: text.to_owned(),
        redact,
        root,
    };
    let mut found = Diagnostics::default();
    for Fault {
        region,
        message,
        help,
    } in faults
    {
        found.push(spans.finding(Severity::Error, "", message, help, &region));
    }
    let value = if broken {
        None
    } else {
        deserialize(&spans, &mut found)
    };
    found.sort();
    match value {
        Some(value) if found.0.is_empty() => Ok(Parsed { value, spans }),
        _ => Err(found),
    }
}

/// Deserialises, and after each failure again without the node that failed, until nothing fails any more:
/// so one wrong key does not hide the next. What is missing only because it was taken out is not reported.
fn deserialize<T: DeserializeOwned>(spans: &Spans, found: &mut Diagnostics) -> Option<T> {
    let failure = match T::deserialize(NodeDe(&spans.root)) {
        Ok(value) => return Some(value),
        Err(failure) => failure,
    };
    let mut next = Some(failure);
    let mut pruned = spans.root.clone();
    let mut removed: Vec<Vec<Segment>> = Vec::new();
    while let Some(failure) = next.take() {
        let path: Vec<Segment> = failure.path.iter().rev().cloned().collect();
        let caused_by_removal = failure.what != What::UnknownKey
            && removed
                .iter()
                .any(|gone| gone.len() == path.len() + 1 && gone.starts_with(&path));
        if !caused_by_removal {
            found.push(finding(spans, &failure, &path));
        }
        if path.is_empty() || found.0.len() >= MAX_FINDINGS || !remove(&mut pruned, &path) {
            break;
        }
        removed.push(path);
        next = T::deserialize(NodeDe(&pruned)).err();
    }
    None
}

fn finding(spans: &Spans, failure: &Failure, path: &[Segment]) -> Diagnostic {
    let name = path_of(path);
    let region = failure.region.clone().unwrap_or_default();
    spans.finding(
        Severity::Error,
        &name,
        &failure.message,
        failure.help.clone(),
        &region,
    )
}

fn remove(node: &mut Node, path: &[Segment]) -> bool {
    match (&mut node.kind, path) {
        (Kind::Map(entries), [Segment::Key(key)]) => {
            let before = entries.len();
            entries.retain(|entry| entry.key != *key);
            entries.len() < before
        }
        (Kind::Seq(items), [Segment::Index(index)]) => {
            let before = items.len();
            items.retain(|item| item.index != *index);
            items.len() < before
        }
        (Kind::Map(entries), [Segment::Key(key), rest @ ..]) => entries
            .iter_mut()
            .find(|entry| entry.key == *key)
            .is_some_and(|entry| remove(&mut entry.value, rest)),
        (Kind::Seq(items), [Segment::Index(index), rest @ ..]) => items
            .iter_mut()
            .find(|item| item.index == *index)
            .is_some_and(|item| remove(&mut item.value, rest)),
        _ => false,
    }
}
