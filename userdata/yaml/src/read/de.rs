//! Deserializes a tree into a type: the type of the field determines the meaning of a scalar.
//!
//! `mac: 52:54:00:12:34:56` into a string is that text, `on` into a boolean is true; `on` into an
//! untyped value is an error, because readers differ on it.

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::access::{Entries, Items};
use super::key::KeyDe;
use super::scalar::{self, Plain};
use super::tree::{Entry, Kind, Node, Style};
use crate::report::failure::Failure;

/// The struct name under which [`crate::Scalar`] asks for text and quoting.
pub(crate) const SCALAR: &str = "$yaml::Scalar";

/// The same for [`crate::Scalars`].
pub(crate) const SCALARS: &str = "$yaml::Scalars";

#[derive(Clone, Copy)]
pub(crate) struct NodeDe<'a>(pub(crate) &'a Node);

impl<'a> NodeDe<'a> {
    fn mismatch(self, expected: &dyn Expected) -> Failure {
        let found = match &self.0.kind {
            Kind::Scalar {
                text,
                style: Style::Plain,
            } if scalar::is_null(text) => Unexpected::Unit,
            Kind::Scalar { .. } => Unexpected::Str(""),
            Kind::Seq(_) => Unexpected::Seq,
            Kind::Map(_) => Unexpected::Map,
        };
        de::Error::invalid_type(found, expected)
    }

    fn is_null(self) -> bool {
        self.0.is_null()
    }

    fn number<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        let Kind::Scalar { text, style } = &self.0.kind else {
            return Err(self.mismatch(&visitor));
        };
        match scalar::resolve(text) {
            _ if *style != Style::Plain => {
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
            Kind::Scalar {
                style: Style::Binary,
                ..
            } => Err(binary()),
            Kind::Scalar {
                text,
                style: Style::Quoted,
            } => visitor.visit_borrowed_str(text),
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
            Kind::Map(entries) => visitor.visit_map(Entries::new(entries.iter())),
        }
    }

    fn mapping<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.0.kind {
            Kind::Map(entries) => visitor.visit_map(Entries::new(entries.iter())),
            // `ntp:` with nothing behind it is how people write "all defaults".
            _ if self.is_null() => visitor.visit_map(Entries::new([].iter())),
            _ => Err(self.mismatch(&visitor)),
        }
    }
}

fn binary() -> Failure {
    let mut failure = Failure::new("`!!binary` is not read here");
    failure.help = Some("write it as text".to_owned());
    failure
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
                Kind::Scalar { style: Style::Binary, .. } => Err(binary()),
                Kind::Scalar { text, .. } if !self.is_null() => visitor.visit_borrowed_str(text),
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
                Kind::Scalar {
                    text,
                    style: Style::Plain,
                } => match scalar::boolean(text) {
                    Some(value) => visitor.visit_bool(value),
                    None => Err(self.mismatch(&visitor)),
                },
                Kind::Scalar {
                    text,
                    style: Style::Quoted,
                } if scalar::boolean(text).is_some() => {
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
        if name == SCALARS && !matches!(self.0.kind, Kind::Seq(_)) {
            return placed!(
                self,
                match &self.0.kind {
                    Kind::Scalar { .. } if self.is_null() => visitor.visit_unit(),
                    Kind::Scalar { .. } => visitor.visit_newtype_struct(self),
                    _ => Err(self.mismatch(&"a value or a list of values")),
                }
            );
        }
        if name != SCALAR {
            return self.deserialize_seq(visitor);
        }
        placed!(
            self,
            match &self.0.kind {
                Kind::Scalar { text, style } => visitor.visit_seq(de::value::SeqDeserializer::new(
                    [text.as_str(), style.name()].into_iter(),
                )),
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
