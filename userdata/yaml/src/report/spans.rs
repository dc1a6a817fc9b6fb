//! The position of every field of a text, so that checks long after parsing can still report it.
//!
//! It finds positions only; it does not check values.

use std::fmt;

use super::diagnostic::{Diagnostic, Severity};
use super::failure::{UNKNOWN_KEY, did_you_mean, named};
use super::region::{Region, Segment, path_of, segments};
use crate::read::tree::{Kind, Node};

/// The position of a field: its key (none for list items and the root) and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub key: Option<Region>,
    pub value: Region,
}

/// The positions of one parsed text.
#[derive(Clone)]
pub struct Spans {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) redact: bool,
    pub(crate) root: Node,
}

impl Spans {
    /// The field at `path`: `hosts[3].address`, `labels["example.com/zone"]`; `""` is the root.
    pub fn get(&self, path: &str) -> Option<Span> {
        let (complete, span, _) = self.deepest(segments(path));
        complete.then_some(span)
    }

    /// The keys of the mapping at `path`, in the order of the text; none when there is no mapping.
    pub fn keys(&self, path: &str) -> impl Iterator<Item = &str> {
        let entries = match self.node(&segments(path)).map(|node| &node.kind) {
            Some(Kind::Map(entries)) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(|entry| entry.key.as_str())
    }

    /// The scalar at `path` as it was written.
    pub fn text(&self, path: &str) -> Option<&str> {
        match self.node(&segments(path)).map(|node| &node.kind) {
            Some(Kind::Scalar { text, .. }) => Some(text),
            _ => None,
        }
    }

    /// Whether the field at `path` is absent or null.
    pub fn is_null(&self, path: &str) -> bool {
        self.node(&segments(path)).is_none_or(Node::is_null)
    }

    pub fn error_at(
        &self,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        self.diagnostic(Severity::Error, path, message, help)
    }

    pub fn warning_at(
        &self,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        self.diagnostic(Severity::Warning, path, message, help)
    }

    /// Points at the key, for findings about the field rather than its value.
    pub fn error_at_key(
        &self,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        self.key_diagnostic(Severity::Error, path, message, help)
    }

    /// A key that no reader knows; `nearest` is the known one that it may have meant.
    pub fn unknown_key(&self, key: &str, nearest: Option<&str>, help: &str) -> Diagnostic {
        let message = named(UNKNOWN_KEY, key, self.redact && nearest.is_none());
        let help = nearest.map_or(help.to_owned(), did_you_mean);
        self.error_at_key(key, message, Some(help))
    }

    pub fn warning_at_key(
        &self,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        self.key_diagnostic(Severity::Warning, path, message, help)
    }

    fn key_diagnostic(
        &self,
        severity: Severity,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        let (_, span, path) = self.deepest(segments(path));
        let region = span.key.unwrap_or(span.value);
        self.finding(&path_of(&path), severity, message, help, &region)
    }

    fn diagnostic(
        &self,
        severity: Severity,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        let (complete, span, path) = self.deepest(segments(path));
        // An absent field has no value to point at: the key of its nearest parent shows where it
        // belongs.
        let region = match span.key {
            Some(key) if !complete || span.value.bytes.is_empty() => key,
            _ => span.value,
        };
        self.finding(&path_of(&path), severity, message, help, &region)
    }

    pub(crate) fn finding(
        &self,
        path: &str,
        severity: Severity,
        message: impl Into<String>,
        help: Option<String>,
        region: &Region,
    ) -> Diagnostic {
        let mut found = Diagnostic::new(severity, &self.name, message)
            .with_path(path)
            .at(region, &self.text, !self.redact);
        found.help = help;
        found
    }

    fn node(&self, path: &[Segment]) -> Option<&Node> {
        path.iter().try_fold(&self.root, |node, segment| {
            node.child(segment).map(|child| child.value)
        })
    }

    /// The last existing field on the way to `path`, whether it is `path` itself, and the path with
    /// the list positions of the text (error recovery removes items).
    fn deepest(&self, mut path: Vec<Segment>) -> (bool, Span, Vec<Segment>) {
        let mut node = &self.root;
        let mut span = Span {
            key: None,
            value: node.region.clone(),
        };
        for i in 0..path.len() {
            let Some(child) = node.child(&path[i]) else {
                return (false, span, path);
            };
            if let Some(index) = child.index {
                path[i] = Segment::Index(index);
            }
            node = child.value;
            span = Span {
                key: child.key.cloned(),
                value: node.region.clone(),
            };
        }
        (true, span, path)
    }
}

struct Child<'a> {
    key: Option<&'a Region>,
    index: Option<usize>,
    value: &'a Node,
}

impl Node {
    fn child(&self, segment: &Segment) -> Option<Child<'_>> {
        match (&self.kind, segment) {
            (Kind::Map(entries), Segment::Key(key)) => {
                let entry = entries.iter().find(|entry| entry.key == *key)?;
                Some(Child {
                    key: Some(&entry.region),
                    index: None,
                    value: &entry.value,
                })
            }
            (Kind::Seq(items), Segment::Index(index)) => {
                let item = items.get(*index)?;
                Some(Child {
                    key: None,
                    index: Some(item.index),
                    value: &item.value,
                })
            }
            _ => None,
        }
    }
}

// The text may hold secrets.
impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
