//! A tree read into a type: the field's type decides what a scalar means.
//!
//! `mac: 52:54:00:12:34:56` into a string is that text, `on` into a boolean is true; `on` into an untyped
//! value is an error, because readers differ on it.

use std::fmt::Display;

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor, value::StrDeserializer,
};
use serde::forward_to_deserialize_any;

use super::scalar::{self, Plain};
use super::spans::{Region, Segment};
use super::tree::{Entry, Item, Kind, Node};

/// The struct name under which [`super::Scalar`] asks for text and quoting.
pub(super) const SCALAR: &str = "$userdata::yaml::Scalar";

/// Why a value was not accepted, with the place once it is known.
#[derive(Debug)]
pub(super) struct Failure {
    /// Without the value.
    pub(super) message: String,
    pub(super) help: Option<String>,
    pub(super) region: Option<Region>,
    /// From the inside out.
    pub(super) path: Vec<Segment>,
    pub(super) what: What,
}

#[derive(Debug, PartialEq)]
pub(super) enum What {
    Value,
    UnknownKey,
    Missing,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Failure {
            message: message.into(),
            help: None,
            region: None,
            path: Vec::new(),
            what: What::Value,
        }
    }

    fn at(mut self, region: &Region) -> Self {
        self.region.get_or_insert_with(|| region.clone());
        self
    }

    fn inside(mut self, segment: Segment) -> Self {
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
        let mut failure = Failure::new(format!("unknown key `{field}`"));
        failure.help = Some(match nearest(field, expected.iter().copied()) {
            Some(known) => did_you_mean(known),
            None if expected.is_empty() => "no keys are known here".to_owned(),
            None => format!("known keys here: {}", list(expected)),
        });
        failure.what = What::UnknownKey;
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

fn did_you_mean(known: &str) -> String {
    format!("did you mean `{known}`?")
}

fn list(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The candidate that a typing error would turn into `word`.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let plain = |s: &str| s.replace('-', "_").to_lowercase();
    let word = plain(word);
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word, &plain(candidate)),
                candidate,
            )
        })
        .filter(|(distance, candidate)| {
            *distance <= (candidate.len().max(word.len()) / 3).clamp(1, 3)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// serde's words for what was expected, in a reader's words.
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

#[derive(Clone, Copy)]
pub(super) struct NodeDe<'a>(pub(super) &'a Node);

impl<'a> NodeDe<'a> {
    fn mismatch(self, expected: &dyn Expected) -> Failure {
        let found = match &self.0.kind {
            Kind::Scalar { text, plain: true } if scalar::is_null(text) => Unexpected::Unit,
            Kind::Scalar { .. } => Unexpected::Str(""),
            Kind::Seq(_) => Unexpected::Seq,
            Kind::Map(_) => Unexpected::Map,
        };
        de::Error::invalid_type(found, expected)
    }

    fn is_null(self) -> bool {
        matches!(&self.0.kind, Kind::Scalar { text, plain: true } if scalar::is_null(text))
    }

    fn number<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        let Kind::Scalar { text, plain } = &self.0.kind else {
            return Err(self.mismatch(&visitor));
        };
        match scalar::resolve(text) {
            _ if !plain => {
                let mut failure = self.mismatch(&visitor);
                failure.help = matches!(
                    scalar::resolve(text),
                    Plain::Unsigned(_) | Plain::Signed(_) | Plain::Float(_)
                )
                .then(|| "write the number without quotes".to_owned());
                Err(failure)
            }
            Plain::Unsigned(value) => visitor.visit_u64(value),
            Plain::Signed(value) => visitor.visit_i64(value),
            Plain::Float(value) => visitor.visit_f64(value),
            Plain::Differs(how) => {
                let mut failure = self.mismatch(&visitor);
                failure.message = format!("not a number all readers agree on: {how}");
                failure.help = Some("write it in plain decimal digits".to_owned());
                Err(failure)
            }
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.0.kind {
            Kind::Scalar { text, plain: false } => visitor.visit_borrowed_str(text),
            Kind::Scalar { text, .. } => {
                match scalar::resolve(text) {
                    Plain::Null => visitor.visit_unit(),
                    Plain::Bool(value) => visitor.visit_bool(value),
                    Plain::Unsigned(value) => visitor.visit_u64(value),
                    Plain::Signed(value) => visitor.visit_i64(value),
                    Plain::Float(value) => visitor.visit_f64(value),
                    Plain::Text => visitor.visit_borrowed_str(text),
                    Plain::Differs(how) => {
                        let mut failure =
                            Failure::new(format!("YAML readers differ on this value: {how}"));
                        failure.help = Some(match scalar::boolean(text) {
                        Some(value) => format!("write `{value}` for the boolean, or quote the text"),
                        None => "quote it if it is text; write plain decimal digits if it is a number".to_owned(),
                    });
                        Err(failure)
                    }
                }
            }
            Kind::Seq(items) => visitor.visit_seq(Items(items.iter())),
            Kind::Map(entries) => visitor.visit_map(Entries {
                entries: entries.iter(),
                value: None,
            }),
        }
    }

    fn mapping<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.0.kind {
            Kind::Map(entries) => visitor.visit_map(Entries {
                entries: entries.iter(),
                value: None,
            }),
            // `ntp:` with nothing behind it is how people write "all defaults".
            _ if self.is_null() => visitor.visit_map(Entries {
                entries: [].iter(),
                value: None,
            }),
            _ => Err(self.mismatch(&visitor)),
        }
    }
}

macro_rules! placed {
    ($self:ident, $result:expr) => {
        $result.map_err(|failure: Failure| failure.at(&$self.0.region))
    };
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
            placed!(self, self.number(visitor))
        })*
    };
}

macro_rules! texts {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
            placed!(self, match &self.0.kind {
                Kind::Scalar { text, plain } if !plain || !scalar::is_null(text) => visitor.visit_borrowed_str(text),
                _ => Err(self.mismatch(&visitor)),
            })
        })*
    };
}

impl<'a> Deserializer<'a> for NodeDe<'a> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        placed!(self, self.any(visitor))
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        placed!(
            self,
            match &self.0.kind {
                Kind::Scalar { text, plain: true } => match scalar::boolean(text) {
                    Some(value) => visitor.visit_bool(value),
                    None => Err(self.mismatch(&visitor)),
                },
                Kind::Scalar { text, plain: false } if scalar::boolean(text).is_some() => {
                    let mut failure = self.mismatch(&visitor);
                    failure.help = Some("write the boolean without quotes".to_owned());
                    Err(failure)
                }
                _ => Err(self.mismatch(&visitor)),
            }
        )
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16
        deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64
    }

    texts! { deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
    deserialize_identifier }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.is_null() {
            visitor.visit_none()
        } else {
            placed!(self, visitor.visit_some(self))
        }
    }

    fn deserialize_unit<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.is_null() {
            visitor.visit_unit()
        } else {
            placed!(self, Err(self.mismatch(&visitor)))
        }
    }

    fn deserialize_unit_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        placed!(self, visitor.visit_newtype_struct(self))
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        placed!(
            self,
            match &self.0.kind {
                Kind::Seq(items) => visitor.visit_seq(Items(items.iter())),
                _ if self.is_null() => visitor.visit_seq(Items([].iter())),
                _ => Err(self.mismatch(&visitor)),
            }
        )
    }

    fn deserialize_tuple<V: Visitor<'a>>(self, _: usize, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'a>>(
        self,
        name: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        if name != SCALAR {
            return self.deserialize_seq(visitor);
        }
        placed!(
            self,
            match &self.0.kind {
                Kind::Scalar { text, plain } => {
                    let plainness = if *plain { "plain" } else { "quoted" };
                    visitor.visit_seq(de::value::SeqDeserializer::new(
                        [text.as_str(), plainness].into_iter(),
                    ))
                }
                _ => Err(self.mismatch(&"a single value")),
            }
        )
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        placed!(self, self.mapping(visitor))
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        placed!(self, self.mapping(visitor))
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        placed!(
            self,
            match &self.0.kind {
                Kind::Scalar { text, .. } if !self.is_null() => {
                    visitor.visit_enum(IntoDeserializer::<Failure>::into_deserializer(
                        text.as_str(),
                    ))
                }
                Kind::Map(entries) if entries.len() == 1 =>
                    visitor.visit_enum(Variant(&entries[0])),
                _ => Err(self.mismatch(&visitor)),
            }
        )
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { <V: Visitor<'a>> i128 u128 }
}

struct Items<'a>(std::slice::Iter<'a, Item>);

impl<'a> SeqAccess<'a> for Items<'a> {
    type Error = Failure;

    fn next_element_seed<S: DeserializeSeed<'a>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Failure> {
        let Some(item) = self.0.next() else {
            return Ok(None);
        };
        let value = seed
            .deserialize(NodeDe(&item.value))
            .map_err(|f| f.inside(Segment::Index(item.index)))?;
        Ok(Some(value))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    value: Option<&'a Entry>,
}

impl<'a> MapAccess<'a> for Entries<'a> {
    type Error = Failure;

    fn next_key_seed<S: DeserializeSeed<'a>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Failure> {
        let Some(entry) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some(entry);
        let key = KeyDe(&entry.key);
        let key = seed
            .deserialize(key)
            .map_err(|f| f.at(&entry.region).inside(Segment::Key(entry.key.clone())))?;
        Ok(Some(key))
    }

    fn next_value_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        let Some(entry) = self.value.take() else {
            return Err(Failure::new("a value without a key"));
        };
        seed.deserialize(NodeDe(&entry.value))
            .map_err(|mut failure| {
                // Nothing was written, so there is nothing to underline but the key.
                if failure.path.is_empty()
                    && (entry.value.region.bytes.is_empty() || failure.what == What::Missing)
                {
                    failure.region = Some(entry.region.clone());
                }
                failure.inside(Segment::Key(entry.key.clone()))
            })
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// Keys are text; a map keyed by numbers parses them.
struct KeyDe<'a>(&'a str);

macro_rules! parsed_keys {
    ($($method:ident $visit:ident $type:ty;)*) => {
        $(fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
            match self.0.parse::<$type>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(de::Error::invalid_type(Unexpected::Str(""), &visitor)),
            }
        })*
    };
}

impl<'a> Deserializer<'a> for KeyDe<'a> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let text: StrDeserializer<'a, Failure> = self.0.into_deserializer();
        text.deserialize_enum(name, variants, visitor)
    }

    parsed_keys! {
        deserialize_u8 visit_u8 u8; deserialize_u16 visit_u16 u16; deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64; deserialize_i64 visit_i64 i64; deserialize_bool visit_bool bool;
    }

    forward_to_deserialize_any! { <V: Visitor<'a>>
        i8 i16 i32 i128 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Variant<'a>(&'a Entry);

impl<'a> EnumAccess<'a> for Variant<'a> {
    type Error = Failure;
    type Variant = NodeDe<'a>;

    fn variant_seed<S: DeserializeSeed<'a>>(
        self,
        seed: S,
    ) -> Result<(S::Value, NodeDe<'a>), Failure> {
        let name = seed
            .deserialize(KeyDe(&self.0.key))
            .map_err(|f| f.at(&self.0.region))?;
        Ok((name, NodeDe(&self.0.value)))
    }
}

impl<'a> VariantAccess<'a> for NodeDe<'a> {
    type Error = Failure;

    fn unit_variant(self) -> Result<(), Failure> {
        if self.is_null() {
            Ok(())
        } else {
            Err(self.mismatch(&"nothing").at(&self.0.region))
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'a>>(self, seed: S) -> Result<S::Value, Failure> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'a>>(self, _: usize, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'a>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.deserialize_map(visitor)
    }
}
