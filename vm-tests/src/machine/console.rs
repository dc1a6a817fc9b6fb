//! The serial console, which QEMU writes to a file, and what a test types on it.
//!
//! It is evidence, and the only source before journald runs. Tests read everything else from the
//! journal.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::host::process::tail;

/// A pipe that QEMU reads.
#[derive(Debug)]
pub struct Keyboard(File);

impl Keyboard {
    /// At a path that does not exist, for `Machine::typed`.
    pub fn at(path: &Path) -> Result<Self> {
        mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)
            .with_context(|| format!("creating `{}`", path.display()))?;
        // Open for both, so that neither side waits for the other, and no machine sees its end.
        let pipe = OpenOptions::new().read(true).write(true).open(path);
        let pipe = pipe.with_context(|| format!("opening `{}`", path.display()))?;
        Ok(Self(pipe))
    }

    pub fn type_line(&mut self, text: &str) -> Result<()> {
        let line = format!("{text}\r");
        self.0.write_all(line.as_bytes()).context("typing")
    }
}

#[derive(Debug, Clone)]
pub struct Console {
    path: PathBuf,
}

impl Console {
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
        }
    }

    /// The text so far, without the escape codes of firmware and systemd.
    pub fn text(&self) -> String {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        without_escapes(&String::from_utf8_lossy(&bytes))
    }

    pub fn tail(&self, lines: usize) -> String {
        tail(self.text().trim_end(), lines).to_string()
    }

    /// Waits until the text contains `needle`. `is_running` tells whether more text can come.
    pub fn wait_for(
        &self,
        needle: &str,
        deadline: Duration,
        mut is_running: impl FnMut() -> bool,
    ) -> Result<String> {
        let end = Instant::now() + deadline;
        loop {
            let more = is_running();
            let text = self.text();
            if text.contains(needle) {
                return Ok(text);
            }
            if !more || Instant::now() > end {
                let why = if more {
                    format!("not seen within {deadline:?}")
                } else {
                    "the machine is off".into()
                };
                bail!(
                    "waiting for `{needle}` on the console: {why}; its last lines:\n{}",
                    tail(text.trim_end(), 10)
                );
            }
            // Polling is simpler than inotify, and half a second is short beside a boot.
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// Removes control sequences (ECMA-48 CSI, OSC and two-byte escapes) and carriage returns.
fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '\u{1b}' => match rest.next() {
                Some('[') => while rest.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                Some(']') => while rest.next().is_some_and(|c| c != '\u{7}' && c != '\\') {},
                _ => {}
            },
            '\r' => {}
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_codes_are_removed() {
        assert_eq!(
            without_escapes(
                "\u{1b}[2J\u{1b}[01;01H[\u{1b}[0;32m  OK  \u{1b}[0m] a\r\n\u{1b}]0;t\u{7}b\u{1b}7c"
            ),
            "[  OK  ] a\nbc"
        );
    }
}
