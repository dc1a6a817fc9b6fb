//! The parser's marks as places in the text, and what the text says where the parser leaves it open.
//!
//! The parser counts characters; Rust slices bytes.

use saphyr_parser::{Marker, ScanError, Span as Mark};

use super::spans::Region;
use super::tree::Fault;

pub(super) struct Places<'t> {
    text: &'t str,
    /// Byte of every character, empty when the text is ASCII and the two are the same.
    bytes: Vec<usize>,
}

impl<'t> Places<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let bytes = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices().map(|(byte, _)| byte).collect()
        };
        Places { text, bytes }
    }

    fn byte(&self, marker: &Marker) -> usize {
        if self.bytes.is_empty() {
            marker.index().min(self.text.len())
        } else {
            self.bytes
                .get(marker.index())
                .copied()
                .unwrap_or(self.text.len())
        }
    }

    pub(super) fn region(&self, mark: &Mark) -> Region {
        let start = self.byte(&mark.start);
        let end = self.byte(&mark.end).max(start);
        Region {
            line: mark.start.line(),
            column: mark.start.col() + 1,
            bytes: start..end,
        }
    }

    /// A block without a line is empty unless its header keeps line breaks; the parser makes one of it.
    pub(super) fn is_empty_block(&self, text: &str, region: &Region) -> bool {
        let before = &self.text[..region.bytes.start.min(self.text.len())];
        let header = before.rfind(['|', '>']).map_or("", |at| &before[at + 1..]);
        let indicators = header.split([' ', '\t', '\n', '\r']).next().unwrap_or("");
        text.bytes().all(|b| b == b'\n') && !indicators.contains('+')
    }

    /// A block that ends in the last line of a text, which nothing ends: the parser adds the line break.
    pub(super) fn is_cut_off(&self, region: &Region) -> bool {
        let last = self.text.rsplit('\n').next().unwrap_or("");
        !last.trim().is_empty() && region.bytes.end >= self.text.trim_end().len()
    }

    pub(super) fn end(&self) -> Region {
        Region {
            line: 1,
            column: 1,
            bytes: 0..0,
        }
    }

    pub(super) fn scan_error(&self, error: &ScanError) -> Fault {
        let at = self.byte(error.marker());
        Fault {
            region: Region {
                line: error.marker().line(),
                column: error.marker().col() + 1,
                bytes: at..at,
            },
            message: format!("not YAML: {}", error.info()),
            help: None,
        }
    }
}
