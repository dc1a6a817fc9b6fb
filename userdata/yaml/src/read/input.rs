//! The parser's input, with a limit for flow collections.
//!
//! A flow collection at the beginning of a line may be a key, and the scanner keeps all its tokens
//! until it ends: 4 MB of `{a: 1, a: 1, …` take 500 MB. The input counts the characters that
//! separate tokens since the last event, and ends when they are too many. The scanner looks for
//! space behind such a character at once, and does not where it is part of a scalar.

use std::cell::Cell;
use std::rc::Rc;

use saphyr_parser::input::SkipTabs;
use saphyr_parser::{Input, StrInput};

/// Separators between two events: a collection with more has too many values anyway.
pub(crate) const MAX_SEPARATORS: usize = 250_000;

/// The number of separators since the last event.
#[derive(Debug, Clone, Default)]
pub(crate) struct Separators(Rc<Cell<usize>>);

impl Separators {
    pub(crate) fn are_too_many(&self) -> bool {
        self.0.get() > MAX_SEPARATORS
    }

    pub(crate) fn reset(&self) {
        self.0.set(0);
    }
}

pub(crate) struct Counted<'t> {
    inner: StrInput<'t>,
    separators: Separators,
    /// The character before the next one may be a separator.
    pending: bool,
}

impl<'t> Counted<'t> {
    pub(crate) fn new(text: &'t str, separators: Separators) -> Self {
        Counted {
            inner: StrInput::new(text),
            separators,
            pending: false,
        }
    }

    #[inline]
    fn count(&mut self) {
        if std::mem::take(&mut self.pending) {
            self.separators.0.set(self.separators.0.get() + 1);
            if self.separators.are_too_many() {
                self.inner = StrInput::new("");
            }
        }
    }
}

macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(#[inline]
        fn $name(&self, $($arg: $type),*) -> $result {
            self.inner.$name($($arg),*)
        })*
    };
}

macro_rules! forward_mut {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(#[inline]
        fn $name(&mut self, $($arg: $type),*) -> $result {
            self.inner.$name($($arg),*)
        })*
    };
}

impl Input for Counted<'_> {
    #[inline]
    fn skip(&mut self) {
        self.pending = matches!(self.inner.peek(), ',' | '[' | '{' | ':' | '?');
        self.inner.skip();
    }

    #[inline]
    fn look_ch(&mut self) -> char {
        self.count();
        self.inner.look_ch()
    }

    #[inline]
    fn skip_ws_to_eol(&mut self, tabs: SkipTabs) -> (usize, Result<SkipTabs, &'static str>) {
        self.count();
        self.inner.skip_ws_to_eol(tabs)
    }

    forward_mut! {
        lookahead(count: usize) -> ();
        raw_read_ch() -> char;
        raw_read_non_breakz_ch() -> Option<char>;
        skip_n(count: usize) -> ();
        skip_while_non_breakz() -> usize;
        skip_while_blank() -> usize;
        fetch_while_is_alpha(out: &mut String) -> usize;
    }

    forward! {
        buflen() -> usize;
        bufmaxlen() -> usize;
        buf_is_empty() -> bool;
        peek() -> char;
        peek_nth(n: usize) -> char;
        next_char_is(c: char) -> bool;
        nth_char_is(n: usize, c: char) -> bool;
        next_2_are(c1: char, c2: char) -> bool;
        next_3_are(c1: char, c2: char, c3: char) -> bool;
        next_is_document_indicator() -> bool;
        next_is_document_start() -> bool;
        next_is_document_end() -> bool;
        next_can_be_plain_scalar(in_flow: bool) -> bool;
        next_is_blank_or_break() -> bool;
        next_is_blank_or_breakz() -> bool;
        next_is_blank() -> bool;
        next_is_break() -> bool;
        next_is_breakz() -> bool;
        next_is_z() -> bool;
        next_is_flow() -> bool;
        next_is_digit() -> bool;
        next_is_alpha() -> bool;
    }
}
