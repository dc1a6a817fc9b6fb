//! Deserialization errors, in terms of the text rather than of Rust types.
//!
//! Messages never contain values: the source line shows them unless the text is redacted.

use std::fmt::Display;

use serde::de::{self, Expected, Unexpected};

use super::region::{Region, Segment};

/// One error; its region is added as soon as it is known.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Without the value.
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    pub(crate) region: Option<Region>,
    /// From the inside out.
    pub(crate) path: Vec<Segment>,
    pub(crate) what: What,
}

pub(crate) const UNKNOWN_KEY: &str = "unknown key";

/// A message about a key or tag. In a text with secrets it may be one itself, in a wrong place:
/// `{password}` is a mapping with a key.
pub(crate) fn named(message: &str, name: &str, redact: bool) -> String {
    if redact {
        format!("{message} (not shown here, because it may be a secret)")
    } else {
        format!("{message} `{name}`")
    }
}

#[derive(Debug, PartialEq)]
pub(crate) enum What {
    Value,
    UnknownKey,
    /// A known one with a typing error.
    MistypedKey,
    Missing,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Failure {
            message: message.into(),
            help: None,
            region: None,
            path: Vec::new(),
            what: What::Value,
        }
    }

    pub(crate) fn at(mut self, region: &Region) -> Self {
        self.region.get_or_insert_with(|| region.clone());
        self
    }

    pub(crate) fn inside(mut self, segment: Segment) -> Self {
        self.path.push(segment);
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    fn custom<T: Display>(message: T) -> Self {
        Failure::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Failure::new(format!(
            "expected {}, found {}",
            wanted(expected),
            kind(found)
        ))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let wanted = wanted(expected);
        match found {
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => {
                Failure::new(format!("the number does not fit: expected {wanted}"))
            }
            _ => Failure::new(format!("expected {wanted}")),
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let mut failure = Failure::new(format!("expected one of {}", list(expected)));
        failure.help = nearest(variant, expected.iter().copied()).map(did_you_mean);
        failure
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let mut failure = Failure::new(named(UNKNOWN_KEY, field, false));
        let known = nearest(field, expected.iter().copied());
        failure.help = Some(match known {
            Some(known) => did_you_mean(known),
            None if expected.is_empty() => "no keys are known here".to_owned(),
            None => format!("known keys here: {}", list(expected)),
        });
        failure.what = match known {
            Some(_) => What::MistypedKey,
            None => What::UnknownKey,
        };
        failure
    }

    fn missing_field(field: &'static str) -> Self {
        let mut failure = Failure::new(format!("the key `{field}` is missing"));
        failure.what = What::Missing;
        failure
    }

    fn duplicate_field(field: &'static str) -> Self {
        Failure::new(format!(
            "`{field}` is set twice, under two spellings of the key"
        ))
    }
}

pub(crate) fn did_you_mean(known: &str) -> String {
    format!("did you mean `{known}`?")
}

fn list(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Typing errors in a word that is still recognised.
const MAX_TYPOS: usize = 3;

/// Characters of the longest word that anyone can mean.
const MAX_WORD: usize = 256;

/// The candidate that a typing error would turn into `word`.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.replace('-', "_").to_lowercase();
    let length = word.chars().count();
    // The distance is at least the difference in length; a long text would take much memory.
    let similar = |candidate: &&str| candidate.chars().count().abs_diff(length) <= MAX_TYPOS;
    let candidates = candidates.into_iter().filter(similar);
    let typed = if length > MAX_WORD {
        return None;
    } else {
        plain(word)
    };
    candidates
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&typed, &plain(candidate)),
                candidate,
            )
        })
        .filter(|(distance, candidate)| {
            *distance <= (candidate.len().max(word.len()) / 3).clamp(1, MAX_TYPOS)
        })
        // Of two spellings of a key, the one the author seems to use.
        .min_by_key(|(distance, candidate)| {
            (*distance, strsim::damerau_levenshtein(word, candidate))
        })
        .map(|(_, candidate)| candidate)
}

/// Translates serde's description of the expected type.
fn wanted(expected: &dyn Expected) -> String {
    let words = expected.to_string();
    match words.as_str() {
        "a boolean" => "`true` or `false`".to_owned(),
        "a string" | "str" | "string" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        "u8" => "a number from 0 to 255".to_owned(),
        "u16" => "a number from 0 to 65535".to_owned(),
        "u32" | "u64" | "usize" => "a number, 0 or larger".to_owned(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        _ if words.starts_with("struct ") => "a mapping".to_owned(),
        _ => words,
    }
}

/// The kind of a value, never the value.
fn kind(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number with a point",
        Unexpected::Char(_) | Unexpected::Str(_) => "text",
        Unexpected::Unit | Unexpected::Option => "nothing",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a mapping",
        _ => "something else",
    }
}
