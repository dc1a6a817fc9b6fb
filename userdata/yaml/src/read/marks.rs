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
    /// Where the text ends without trailing space, if nothing ends its last line. Found once:
    /// every block asks for it.
    cut_off_at: Option<usize>,
}

impl<'t> Marks<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        let bytes = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices().map(|(byte, _)| byte).collect()
        };
        let last = text.rsplit('\n').next().unwrap_or("");
        let cut_off_at = (!last.trim().is_empty()).then(|| text.trim_end().len());
        Marks {
            text,
            bytes,
            cut_off_at,
        }
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
        if text.bytes().any(|b| b != b'\n') {
            return false;
        }
        let before = &self.text[..region.bytes.start.min(self.text.len())];
        let header = before.rfind(['|', '>']).map_or("", |at| &before[at + 1..]);
        let indicators = header.split([' ', '\t', '\n', '\r']).next().unwrap_or("");
        !indicators.contains('+')
    }

    /// A block that ends in the last line of a text, which nothing ends: the parser adds the line
    /// break.
    pub(crate) fn is_cut_off(&self, region: &Region) -> bool {
        self.cut_off_at.is_some_and(|end| region.bytes.end >= end)
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
