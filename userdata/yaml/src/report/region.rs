//! Regions of a text, the paths of its fields, and faults of the text itself.

use std::ops::Range;

/// A part of the text. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Region {
    pub line: usize,
    pub column: usize,
    pub bytes: Range<usize>,
}

/// Part of a path: `hosts`, `[3]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    Key(String),
    Index(usize),
}

/// Something wrong with the text itself.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) region: Region,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

pub(crate) fn segments(path: &str) -> Vec<Segment> {
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

pub(crate) fn path_of(segments: &[Segment]) -> String {
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
