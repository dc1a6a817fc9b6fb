//! Converts the parser's marks to regions of the text, and reads the text where the events are
//! ambiguous.
//!
//! The parser counts characters; Rust slices bytes.

use saphyr_parser::{Marker, ScanError, Span as Mark};

use crate::report::region::{Fault, Region};

pub(crate) struct Marks<'t> {
    text: &'t str,
    /// Byte of every character, empty when the text is ASCII and the two are the same.
    bytes: Vec<usize>,
}

impl<'t> Marks<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        let bytes = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices().map(|(byte, _)| byte).collect()
        };
        Marks { text, bytes }
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

    pub(crate) fn region(&self, mark: &Mark) -> Region {
        let start = self.byte(&mark.start);
        let end = self.byte(&mark.end).max(start);
        Region {
            line: mark.start.line(),
            column: mark.start.col() + 1,
            bytes: start..end,
        }
    }

    /// A block without a line is empty unless its header keeps line breaks; the parser makes one of
    /// it.
    pub(crate) fn is_empty_block(&self, text: &str, region: &Region) -> bool {
        let before = &self.text[..region.bytes.start.min(self.text.len())];
        let header = before.rfind(['|', '>']).map_or("", |at| &before[at + 1..]);
        let indicators = header.split([' ', '\t', '\n', '\r']).next().unwrap_or("");
        text.bytes().all(|b| b == b'\n') && !indicators.contains('+')
    }

    /// A block that ends in the last line of a text, which nothing ends: the parser adds the line
    /// break.
    pub(crate) fn is_cut_off(&self, region: &Region) -> bool {
        let last = self.text.rsplit('\n').next().unwrap_or("");
        !last.trim().is_empty() && region.bytes.end >= self.text.trim_end().len()
    }

    pub(crate) fn end(&self) -> Region {
        Region {
            line: 1,
            column: 1,
            bytes: 0..0,
        }
    }

    pub(crate) fn scan_error(&self, error: &ScanError) -> Fault {
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
