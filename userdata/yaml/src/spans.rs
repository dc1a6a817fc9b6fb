//! Where every field of a text stands, so that a check made long after parsing can still point at it.
//!
//! Looks only; nothing here judges what a field says.

use std::fmt;
use std::ops::Range;

use super::diagnostic::{Diagnostic, Severity};
use super::tree::{Kind, Node};

/// A stretch of the text. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Region {
    pub line: usize,
    pub column: usize,
    pub bytes: Range<usize>,
}

/// Where a field stands: its key (none for list items and the root) and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub key: Option<Region>,
    pub value: Region,
}

/// The positions of one parsed text.
#[derive(Clone)]
pub struct Spans {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) redact: bool,
    pub(super) root: Node,
}

/// Part of a path: `hosts`, `[3]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Key(String),
    Index(usize),
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

    /// Whether nothing is written at `path`.
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
        // A field that is not there has no value to point at: its nearest parent's key says where it belongs.
        let region = match span.key {
            Some(key) if !complete || span.value.bytes.is_empty() => key,
            _ => span.value,
        };
        self.finding(&path_of(&path), severity, message, help, &region)
    }

    pub(super) fn finding(
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

    /// The last field on the way to `path` that is there, whether it is the whole way, and the path with
    /// the list positions of the text: error recovery takes items out.
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

pub(super) fn segments(path: &str) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let end = quoted.find("\"]").unwrap_or(quoted.len());
            segments.push(Segment::Key(quoted[..end].to_owned()));
            rest = quoted.get(end + 2..).unwrap_or("");
        } else if let Some(index) = rest.strip_prefix('[') {
            let end = index.find(']').unwrap_or(index.len());
            segments.push(Segment::Index(index[..end].parse().unwrap_or(usize::MAX)));
            rest = index.get(end + 1..).unwrap_or("");
        } else {
            let key = rest.strip_prefix('.').unwrap_or(rest);
            let end = key.find(['.', '[']).unwrap_or(key.len());
            segments.push(Segment::Key(key[..end].to_owned()));
            rest = &key[end..];
        }
    }
    segments
}

pub(super) fn path_of(segments: &[Segment]) -> String {
    let mut path = String::new();
    for segment in segments {
        match segment {
            Segment::Index(index) => path.push_str(&format!("[{index}]")),
            Segment::Key(key) if key.is_empty() || key.contains(['.', '[', '"', ' ', '\n']) => {
                path.push_str(&format!("[\"{key}\"]"));
            }
            Segment::Key(key) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
        }
    }
    path
}
