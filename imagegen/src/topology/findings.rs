//! Collects findings about a topology. The rules are elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use yaml::{Diagnostic, Diagnostics, Spans};

use super::value::Invalid;

/// Errors, and warnings, of one run. The rest is not collected: positions of a hundred thousand
/// findings take minutes.
const MAX_FINDINGS: usize = 100;

/// Findings with their positions in the text.
#[derive(Debug)]
pub(super) struct Findings<'a> {
    spans: &'a Spans,
    found: Diagnostics,
    errors: usize,
    warnings: usize,
}

impl<'a> Findings<'a> {
    pub(super) fn new(spans: &'a Spans) -> Self {
        Self {
            spans,
            found: Diagnostics::default(),
            errors: 0,
            warnings: 0,
        }
    }

    fn add_error(&mut self, finding: impl FnOnce(&Spans) -> Diagnostic) {
        self.errors += 1;
        if self.errors <= MAX_FINDINGS {
            self.found.push(finding(self.spans));
        }
    }

    fn add_warning(&mut self, finding: impl FnOnce(&Spans) -> Diagnostic) {
        self.warnings += 1;
        if self.warnings <= MAX_FINDINGS {
            self.found.push(finding(self.spans));
        }
    }

    /// The warnings, or all findings if any is an error, in the order of the text.
    pub(super) fn into_warnings(mut self) -> Result<Vec<Diagnostic>, Diagnostics> {
        self.found.sort();
        self.found.into_result()
    }

    pub(super) fn error(
        &mut self,
        path: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.add_error(|spans| spans.error_at(path, message, Some(help.into())));
    }

    pub(super) fn error_at_key(
        &mut self,
        path: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.add_error(|spans| spans.error_at_key(path, message, Some(help.into())));
    }

    pub(super) fn warning(
        &mut self,
        path: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.add_warning(|spans| spans.warning_at(path, message, Some(help.into())));
    }

    pub(super) fn warning_at_key(
        &mut self,
        path: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.add_warning(|spans| spans.warning_at_key(path, message, Some(help.into())));
    }

    pub(super) fn missing(&mut self, path: &str, help: impl Into<String>) {
        let key = path.rsplit('.').next().unwrap_or(path);
        self.error(path, format!("`{key}` is missing"), help);
    }

    /// The text of a required key.
    pub(super) fn required<'t>(
        &mut self,
        path: &str,
        text: Option<&'t str>,
        help: impl Into<String>,
    ) -> Option<&'t str> {
        if text.is_none() {
            self.missing(path, help);
        }
        text
    }

    /// The value, or a finding at `path`.
    pub(super) fn take<T>(&mut self, path: &str, checked: Result<T, Invalid>) -> Option<T> {
        match checked {
            Ok(value) => Some(value),
            Err(Invalid { message, help }) => {
                self.add_error(|spans| spans.error_at(path, message, help));
                None
            }
        }
    }

    /// The valid items of a list, with findings for invalid items and duplicates.
    pub(super) fn all(
        &mut self,
        path: &str,
        texts: &[String],
        check: impl Fn(&str) -> Result<String, Invalid>,
    ) -> Vec<String> {
        let mut kept: Vec<String> = Vec::with_capacity(texts.len());
        let mut seen = BTreeSet::new();
        for (i, text) in texts.iter().enumerate() {
            let path = format!("{path}[{i}]");
            match self.take(&path, check(text)) {
                Some(value) if seen.insert(value.clone()) => kept.push(value),
                Some(_) => self.error(&path, "duplicate", "remove one of them"),
                None => {}
            }
        }
        kept
    }

    pub(super) fn line(&self, path: &str) -> usize {
        self.spans.get(path).map_or(0, |span| span.value.line)
    }
}

/// Values that must be unique among hosts, with their first owner.
#[derive(Debug)]
pub(super) struct Unique<K> {
    what: &'static str,
    seen: BTreeMap<K, (String, String)>,
}

impl<K: Ord + Display> Unique<K> {
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            seen: BTreeMap::new(),
        }
    }

    /// Adds `value` of `host` at `path`. The finding about a duplicate names the first owner.
    pub(super) fn add(
        &mut self,
        f: &mut Findings<'_>,
        path: &str,
        host: &str,
        value: K,
        help: &str,
    ) {
        if let Some((first, place)) = self.seen.get(&value) {
            let message = format!(
                "`{first}` in line {} already has the {} `{value}`",
                f.line(place),
                self.what
            );
            f.error(path, message, help);
        } else {
            self.seen.insert(value, (host.to_owned(), path.to_owned()));
        }
    }

    pub(super) fn owner(&self, value: &K) -> Option<&str> {
        self.seen.get(value).map(|(host, _)| host.as_str())
    }
}
