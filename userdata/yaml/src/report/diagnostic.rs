//! Errors and warnings with their position.
//!
//! Values are quoted only through the source line, and that line is left out for texts that hold
//! secrets, so a diagnostic can be printed to a console or a journal unchanged.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::region::Region;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// One finding. `Display` is several lines, with the source line and a caret; see
/// [`one_line`](Self::one_line) for journals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// The name the text was parsed under, usually a file name.
    pub file: String,
    /// The field: `hosts[3].address`; empty for the text as a whole.
    pub path: String,
    /// Counted from 1; 0 when the finding has no position.
    pub line: usize,
    /// In characters, counted from 1; 0 when the finding has no position.
    pub column: usize,
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    snippet: Option<SourceLine>,
}

/// Bytes of a line that are shown before and after the position of a finding.
const MAX_SHOWN: usize = 400;

/// The line a caret points into, with the part it underlines (bytes of the line).
#[derive(Debug, Clone, PartialEq, Eq)]
struct SourceLine {
    text: String,
    start: usize,
    end: usize,
}

impl Diagnostic {
    /// A finding without a position, about the file as a whole.
    pub fn new(severity: Severity, file: impl Into<String>, message: impl Into<String>) -> Self {
        Diagnostic {
            severity,
            file: file.into(),
            path: String::new(),
            line: 0,
            column: 0,
            message: message.into(),
            help: None,
            snippet: None,
        }
    }

    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub fn with_path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Points at `region` of `text`; keeps the line itself only if `show` is set.
    pub(crate) fn at(mut self, region: &Region, text: &str, show: bool) -> Self {
        self.line = region.line;
        self.column = region.column;
        self.snippet = show.then(|| SourceLine::cut(region, text)).flatten();
        self
    }

    /// `cluster.yaml:12:9: error: message; help`
    pub fn one_line(&self) -> String {
        let mut out = format!("{}: {}: {}", self.place(), self.severity, self.message);
        if let Some(help) = &self.help {
            out.push_str("; ");
            out.push_str(help);
        }
        out.replace('\n', " ")
    }

    fn place(&self) -> String {
        if self.line == 0 {
            self.file.clone()
        } else {
            format!("{}:{}:{}", self.file, self.line, self.column)
        }
    }
}

impl SourceLine {
    fn cut(region: &Region, text: &str) -> Option<SourceLine> {
        let at = region.bytes.start.min(text.len());
        // A line may be as long as the text, and each of many findings shows its own.
        let from = (at.saturating_sub(MAX_SHOWN)..=at).find(|i| text.is_char_boundary(*i))?;
        let to = (at..=text.len().min(at + MAX_SHOWN))
            .rev()
            .find(|i| text.is_char_boundary(*i))?;
        let newline = text.get(from..at)?.rfind('\n');
        let start = newline.map_or(from, |newline| from + newline + 1);
        let end = text
            .get(at..to)?
            .find('\n')
            .map_or(to, |newline| at + newline);
        let line = text.get(start..end)?.trim_end_matches('\r');
        let first = (at - start).min(line.len());
        // A block spans many lines; the caret stays on the one it starts in.
        let last = region
            .bytes
            .end
            .saturating_sub(start)
            .clamp(first, line.len());
        let last = if line.is_char_boundary(last) {
            last
        } else {
            line.len()
        };
        let last = first + line.get(first..last)?.trim_end().len();
        // An empty region marks the whole character that it precedes, or the end of the line.
        let marked = line[first..].chars().next().map_or(1, char::len_utf8);
        Some(SourceLine {
            text: line.replace('\t', " "),
            start: first,
            end: last.max(first + marked),
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{}: {}", self.place(), self.severity);
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.with_name(name).primary_title(&self.message));
        if let Some(line) = &self.snippet {
            group = group.element(
                Snippet::source(line.text.as_str())
                    .line_start(self.line)
                    .annotation(AnnotationKind::Primary.span(line.start..line.end)),
            );
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        f.write_str(&Renderer::plain().render(&[group]))
    }
}

/// Everything found in one run, in the order of the text. Never empty when returned as an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|found| found.severity == Severity::Error)
    }

    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Adds a finding of a later check, unless an earlier error lies at or inside its field: then
    /// it may only follow from that.
    pub fn push_unless_known(&mut self, diagnostic: Diagnostic) {
        let follows = |earlier: &Diagnostic| {
            let rest = earlier.path.strip_prefix(&diagnostic.path);
            earlier.severity == Severity::Error
                && earlier.file == diagnostic.file
                && !diagnostic.path.is_empty()
                && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        if !self.0.iter().any(follows) {
            self.0.push(diagnostic);
        }
    }

    pub fn extend(&mut self, more: impl IntoIterator<Item = Diagnostic>) {
        self.0.extend(more);
    }

    /// By position within one file; the order between files stays.
    pub fn sort(&mut self) {
        let mut files: Vec<String> = Vec::new();
        for found in &self.0 {
            if !files.contains(&found.file) {
                files.push(found.file.clone());
            }
        }
        self.0.sort_by_key(|found| {
            (
                files.iter().position(|file| *file == found.file),
                found.line,
                found.column,
            )
        });
    }

    /// `Err` when there is an error among them, else the warnings.
    pub fn into_result(self) -> Result<Vec<Diagnostic>, Diagnostics> {
        if self.has_errors() {
            Err(self)
        } else {
            Ok(self.0)
        }
    }

    /// One line per finding, for consoles and journals.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(Diagnostic::one_line)
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Diagnostics(vec![diagnostic])
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, found) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            found.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
