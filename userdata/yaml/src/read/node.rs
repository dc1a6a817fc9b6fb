//! The tree of one text: collections, and scalars with their text and position.

use super::scalar;
use crate::report::region::Region;

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) region: Region,
    pub(crate) kind: Kind,
}

/// How a scalar was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Bare: readers may have taken it for a number, a boolean, a date.
    Plain,
    /// Quoted, or a block: text whatever it looks like.
    Quoted,
    /// Base64 under `!!binary`.
    Binary,
}

impl Style {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Style::Plain => "plain",
            Style::Quoted => "quoted",
            Style::Binary => "binary",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Scalar { text: String, style: Style },
    Seq(Vec<Item>),
    Map(Vec<Entry>),
}

/// `index` is the place in the text: the list may have lost items to error recovery.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) index: usize,
    pub(crate) value: Node,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) region: Region,
    pub(crate) value: Node,
}

impl Default for Node {
    fn default() -> Self {
        Node::null(Region::default())
    }
}

impl Node {
    /// Takes the quotes off every boolean and every whole number.
    pub(crate) fn unquote(&mut self) {
        match &mut self.kind {
            Kind::Scalar { text, style } => {
                let number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                if *style == Style::Quoted && (number || scalar::boolean(text).is_some()) {
                    *style = Style::Plain;
                }
            }
            Kind::Seq(items) => items.iter_mut().for_each(|item| item.value.unquote()),
            Kind::Map(entries) => entries.iter_mut().for_each(|entry| entry.value.unquote()),
        }
    }

    pub(super) fn null(region: Region) -> Node {
        Node {
            region,
            kind: Kind::Scalar {
                text: String::new(),
                style: Style::Plain,
            },
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, style: Style::Plain } if scalar::is_null(text))
    }

    /// About how much there is to read: a node costs as much as 64 bytes of text.
    pub(crate) fn work(&self) -> usize {
        let (nodes, bytes) = self.weight();
        nodes * 64 + bytes
    }

    /// Nodes, and bytes of text in them.
    pub(super) fn weight(&self) -> (usize, usize) {
        let mut weight = (1, 0);
        let mut add = |key: Option<&String>, value: &Node| {
            let (nodes, bytes) = value.weight();
            weight.0 += nodes + usize::from(key.is_some());
            weight.1 += bytes + key.map_or(0, String::len);
        };
        match &self.kind {
            Kind::Scalar { text, .. } => weight.1 = text.len(),
            Kind::Seq(items) => items.iter().for_each(|item| add(None, &item.value)),
            Kind::Map(entries) => entries
                .iter()
                .for_each(|entry| add(Some(&entry.key), &entry.value)),
        }
        weight
    }
}
