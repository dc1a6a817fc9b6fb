//! Telling a person what is happening and how far it is: bars on a terminal, plain lines elsewhere.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Where progress goes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Progress {
    bars: Option<MultiProgress>,
    quiet: bool,
}

impl Progress {
    /// Bars when standard error is a terminal, a line at each stage's start and end when it is not.
    pub fn stderr() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, quiet: false }
    }

    /// Nothing at all; for tests.
    pub fn quiet() -> Self {
        Self {
            bars: None,
            quiet: true,
        }
    }

    /// Begins a stage whose extent is not known.
    pub fn stage(&self, name: impl fmt::Display) -> Stage {
        self.begin(name.to_string(), None)
    }

    /// Begins a stage of `total` bytes.
    pub fn bytes(&self, name: impl fmt::Display, total: u64) -> Stage {
        self.begin(name.to_string(), Some(total))
    }

    fn begin(&self, name: String, total: Option<u64>) -> Stage {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(match total {
                Some(total) => ProgressBar::new(total),
                None => ProgressBar::new_spinner(),
            });
            // indicatif's own placeholders, not format arguments.
            #[allow(clippy::literal_string_with_formatting_args)]
            let template = match total {
                Some(_) => "{prefix:28} {bar:30} {bytes}/{total_bytes} {wide_msg}",
                None => "{prefix:28} {spinner} {elapsed} {wide_msg}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        if bar.is_none() && !self.quiet {
            print(&format!("{name} …"));
        }
        Stage {
            name,
            bar,
            began: Instant::now(),
            progress: self.clone(),
            ended: false,
        }
    }

    fn line(&self, text: &str) {
        match &self.bars {
            _ if self.quiet => {}
            Some(bars) => drop(bars.println(text)),
            None => print(text),
        }
    }
}

/// Not with `eprintln!`, whose output the test harness hides until a test fails: a person who waits
/// for an image sees the progress.
fn print(line: &str) {
    // Progress that cannot be written is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// One stage; what it took is known when it is [done](Stage::done).
#[derive(Debug)]
pub struct Stage {
    name: String,
    bar: Option<ProgressBar>,
    began: Instant,
    progress: Progress,
    ended: bool,
}

impl Stage {
    /// What the stage is at just now; shown on terminals only.
    pub fn at(&self, what: impl fmt::Display) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_string());
        }
    }

    /// Moves a stage with a known extent on.
    pub fn advance(&self, by: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(by);
        }
    }

    /// Ends the stage; returns the time it took.
    pub fn done(mut self) -> Duration {
        self.ended = true;
        let took = self.began.elapsed();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.progress.line(&format!(
            "{}: done in {:.1} s",
            self.name,
            took.as_secs_f64()
        ));
        took
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let (false, Some(bar)) = (self.ended, &self.bar) {
            bar.abandon_with_message("not finished");
        }
    }
}
