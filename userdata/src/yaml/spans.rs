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
        let segments = segments(path);
        let (depth, span) = self.deepest(&segments);
        (depth == segments.len()).then_some(span)
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
        let (_, span) = self.deepest(&segments(path));
        self.finding(
            severity,
            path,
            message,
            help,
            &span.key.unwrap_or(span.value),
        )
    }

    fn diagnostic(
        &self,
        severity: Severity,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        let segments = segments(path);
        let (depth, span) = self.deepest(&segments);
        // A field that is not there has no value to point at: its nearest parent's key says where it belongs.
        let region = match span.key {
            Some(key) if depth < segments.len() || span.value.bytes.is_empty() => key,
            _ => span.value,
        };
        self.finding(severity, path, message, help, &region)
    }

    pub(super) fn finding(
        &self,
        severity: Severity,
        path: &str,
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

    fn deepest(&self, path: &[Segment]) -> (usize, Span) {
        let mut node = &self.root;
        let mut span = Span {
            key: None,
            value: node.region.clone(),
        };
        for (depth, segment) in path.iter().enumerate() {
            let next = match (&node.kind, segment) {
                (Kind::Map(entries), Segment::Key(key)) => entries
                    .iter()
                    .find(|entry| entry.key == *key)
                    .map(|entry| (Some(entry.region.clone()), &entry.value)),
                (Kind::Seq(items), Segment::Index(index)) => items
                    .iter()
                    .find(|item| item.index == *index)
                    .map(|item| (None, &item.value)),
                _ => None,
            };
            let Some((key, value)) = next else {
                return (depth, span);
            };
            node = value;
            span = Span {
                key,
                value: value.region.clone(),
            };
        }
        (path.len(), span)
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
