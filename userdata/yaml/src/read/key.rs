//! Deserializes keys. A key is text; a map keyed by numbers or booleans parses it.

use serde::de::{
    self, Deserializer, IntoDeserializer, Unexpected, Visitor, value::StrDeserializer,
};
use serde::forward_to_deserialize_any;

use crate::report::failure::Failure;

pub(crate) struct KeyDe<'a>(pub(crate) &'a str);

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
