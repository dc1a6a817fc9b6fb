//! Who fetched what: a row for each machine on a terminal, a line for each event elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::image::live;

/// Refusals of one machine for one path are shown once, and the number of rows is bounded: invalid
/// requests must not fill a log.
const MAX_ROWS: usize = 1000;

#[derive(Debug)]
pub struct Table {
    start: Instant,
    bars: Option<MultiProgress>,
    rows: Mutex<BTreeMap<String, Row>>,
}

#[derive(Debug, Default)]
struct Row {
    /// In the order in which they were first fetched, with the part that has been sent.
    files: Vec<(String, u64)>,
    /// Path and reason of what was refused.
    refused: Vec<(String, String)>,
    last: u64,
    bar: Option<ProgressBar>,
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl Table {
    /// On standard output.
    pub fn new() -> Self {
        let target = indicatif::ProgressDrawTarget::stdout();
        let bars = std::io::stdout()
            .is_terminal()
            .then(|| MultiProgress::with_draw_target(target));
        Self {
            start: Instant::now(),
            bars,
            rows: Mutex::default(),
        }
    }

    /// A line above the rows.
    pub fn say(&self, line: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(line)),
            None => println!("{line}"),
        }
    }

    /// `host` got a file up to byte `end` of `length`.
    pub fn fetched(&self, host: &str, file: &str, part: Option<(u64, u64)>) {
        let percent = part.map_or(100, |(end, length)| match length {
            0 => 100,
            length => end.saturating_mul(100) / length,
        });
        let mut rows = self.rows();
        let Some(row) = self.row(&mut rows, host) else {
            return;
        };
        // iPXE fetches the script once in each boot.
        if file == live::SCRIPT && row.files.iter().any(|(name, _)| name == file) {
            row.files.clear();
        }
        let known = row.files.iter_mut().find(|(name, _)| name == file);
        let first = known.is_none();
        match known {
            Some((_, before)) => *before = percent,
            None => row.files.push((file.to_owned(), percent)),
        }
        if first || percent >= 100 {
            self.event(&format!("{host}: {file} {}", progress(percent)));
        }
        self.show(host, row);
    }

    /// `host` was refused a path.
    pub fn refused(&self, host: &str, path: &str, reason: &str) {
        let mut rows = self.rows();
        let Some(row) = self.row(&mut rows, host) else {
            return;
        };
        let entry = (printable(path), reason.to_owned());
        if !row.refused.contains(&entry) && row.refused.len() < 20 {
            let text = format!("{host}: refused {}: {reason}", entry.0);
            match self.bars.is_some() {
                true => self.say(&text),
                false => self.event(&text),
            }
            row.refused.push(entry);
        }
        self.show(host, row);
    }

    /// What `host` has fetched.
    #[cfg(test)]
    pub fn files(&self, host: &str) -> Vec<String> {
        let rows = self.rows();
        let files = rows.get(host).map(|row| row.files.iter());
        files
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<String, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn row<'a>(&self, rows: &'a mut BTreeMap<String, Row>, host: &str) -> Option<&'a mut Row> {
        if rows.len() >= MAX_ROWS && !rows.contains_key(host) {
            return None;
        }
        let row = rows.entry(host.to_owned()).or_default();
        row.last = self.start.elapsed().as_secs();
        if let (Some(bars), None) = (&self.bars, &row.bar) {
            let bar = bars.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            row.bar = Some(bar);
        }
        Some(row)
    }

    fn show(&self, host: &str, row: &Row) {
        if let Some(bar) = &row.bar {
            bar.set_message(line(host, row));
        }
    }

    /// A line where there are no rows.
    fn event(&self, text: &str) {
        if self.bars.is_none() {
            println!("{:>6} s  {text}", self.start.elapsed().as_secs());
        }
    }
}

fn progress(percent: u64) -> String {
    match percent {
        100.. => "fetched".to_owned(),
        percent => format!("{percent} %"),
    }
}

fn line(host: &str, row: &Row) -> String {
    let mut text = format!("{host:20} {:>6} s ", row.last);
    for (file, percent) in &row.files {
        // Writing to a String cannot fail.
        let _ = match percent {
            100.. => write!(text, " {file}"),
            percent => write!(text, " {file} {percent} %"),
        };
    }
    if let Some((path, _)) = row.refused.last() {
        let _ = write!(text, " (refused {path})");
    }
    text
}

/// What a stranger sends must not control the terminal.
fn printable(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { '?' } else { c });
    clean.take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_shows_the_way_of_a_machine() {
        let table = Table::new();
        table.fetched("m0", "boot.ipxe", Some((10, 10)));
        table.fetched("m0", "root.erofs", Some((50, 200)));
        table.refused("m0", "/\u{1b}[2J", "there is no such file here");
        let shown = |table: &Table| line("m0", &table.rows()["m0"]);
        let text = shown(&table);
        assert!(
            text.ends_with(" boot.ipxe root.erofs 25 % (refused /?[2J)"),
            "{text}"
        );
        table.fetched("m0", "root.erofs", Some((200, 200)));
        table.fetched("m0", "boot.ipxe", Some((10, 10)));
        let text = shown(&table);
        assert!(
            text.contains("s  boot.ipxe (refused"),
            "a second boot: {text}"
        );
        for number in 0..2 * MAX_ROWS {
            table.refused(&number.to_string(), "/x", "no");
        }
        assert_eq!(table.rows().len(), MAX_ROWS);
    }
}
