//! Access to list items and mapping entries; attaches positions to errors while unwinding.

use serde::de::{DeserializeSeed, MapAccess, SeqAccess};

use super::de::NodeDe;
use super::key::KeyDe;
use super::tree::{Entry, Item};
use crate::report::failure::{Failure, What};
use crate::report::region::Segment;

pub(crate) struct Items<'a>(pub(crate) std::slice::Iter<'a, Item>);

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
            .map_err(|f| f.at(&item.value.region).inside(Segment::Index(item.index)))?;
        Ok(Some(value))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

pub(crate) struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    value: Option<&'a Entry>,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(entries: std::slice::Iter<'a, Entry>) -> Self {
        Entries {
            entries,
            value: None,
        }
    }
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
                failure
                    .at(&entry.value.region)
                    .inside(Segment::Key(entry.key.clone()))
            })
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}
