//! All machines on one screen, a line each; without a terminal a plain line for each thing that happens.
//!
//! Colours only on a terminal, and not with `NO_COLOR`: both are indicatif's doing.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::progress::{Progress, State};

#[derive(Debug)]
pub(crate) struct Screen {
    /// Name and role of each machine.
    machines: Vec<(String, &'static str)>,
    pace: f64,
    live: Option<Live>,
}

#[derive(Debug)]
struct Live {
    all: MultiProgress,
    total: ProgressBar,
    lines: Vec<ProgressBar>,
}

/// Of a plain line: an apiserver that is not ready yet answers at length.
const PLAIN: usize = 160;

impl Screen {
    pub(crate) fn new(machines: Vec<(String, &'static str)>, pace: f64) -> Result<Self> {
        let live = stdout()
            .is_terminal()
            .then(|| Live::new(&machines))
            .transpose()?;
        Ok(Self {
            machines,
            pace,
            live,
        })
    }

    /// Shows where machine `at` is now; `news` if that has changed since the last time.
    pub(crate) fn show(&self, at: usize, progress: &Progress, news: bool) -> Result<()> {
        match &self.live {
            Some(live) => {
                let line = &live.lines[at];
                if news {
                    line.set_style(style(&progress.state)?);
                }
                line.set_message(progress.line(self.pace));
                if progress.state == State::Ready {
                    line.set_position(1);
                }
                let ready = live.lines.iter().filter(|line| line.position() == 1);
                live.total
                    .set_message(format!("{} of {} ready", ready.count(), live.lines.len()));
            }
            None if news => {
                let (name, role) = &self.machines[at];
                // What went wrong is told in full.
                let most = match progress.state {
                    State::Failed | State::Refused => usize::MAX,
                    _ => PLAIN,
                };
                let line = format!("{name:6} {role:8} {}", progress.line(self.pace));
                say(&shortened(&line, most));
            }
            None => {}
        }
        Ok(())
    }

    /// A line that stays, above those of the machines.
    pub(crate) fn say(&self, text: &str) {
        match &self.live {
            Some(live) => {
                let _ = live.all.println(text);
            }
            None => say(text),
        }
    }
}

impl Live {
    fn new(machines: &[(String, &'static str)]) -> Result<Self> {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let total = all.add(ProgressBar::no_length());
        #[expect(
            clippy::literal_string_with_formatting_args,
            reason = "indicatif's template, not format!'s"
        )]
        let template = "{elapsed_precise:.bold}  {msg:.bold}";
        total.set_style(ProgressStyle::with_template(template).context("a template")?);
        total.enable_steady_tick(Duration::from_secs(1));
        let mut lines = Vec::new();
        for (name, role) in machines {
            let line = all.add(ProgressBar::new(1));
            line.set_style(style(&State::Starting)?);
            line.set_prefix(format!("{name:6} {role:8}"));
            lines.push(line);
        }
        Ok(Self { all, total, lines })
    }
}

impl Drop for Screen {
    /// What was shown last stays.
    fn drop(&mut self) {
        if let Some(live) = &self.live {
            for line in live.lines.iter().chain([&live.total]) {
                line.abandon();
            }
        }
    }
}

fn style(state: &State) -> Result<ProgressStyle> {
    let colour = match state {
        State::Starting => "dim",
        State::Working => "cyan",
        State::Waiting => "yellow",
        State::Failed | State::Refused => "red",
        State::Ready => "green",
    };
    ProgressStyle::with_template(&format!("{{prefix:.{colour}}} {{wide_msg}}"))
        .context("a template")
}

/// At most `most` characters, the last of them a mark if there were more.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// A plain line. A reader who has gone away is no reason to switch machines off.
pub(crate) fn say(text: &str) {
    let mut stdout = stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_say_that_they_are_cut() {
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöüß", 3), "äö…");
    }
}
