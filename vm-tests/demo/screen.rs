//! Shows one line per machine on a terminal, and a plain line per event elsewhere.
//!
//! indicatif uses colours only on a terminal, and not with `NO_COLOR`.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::progress::{Progress, State};

#[derive(Debug)]
pub(crate) struct Screen {
    /// Name and role of each machine.
    machines: Vec<(String, &'static str)>,
    time_scale: f64,
    live: Option<Live>,
}

#[derive(Debug)]
struct Live {
    all: MultiProgress,
    total: ProgressBar,
    lines: Vec<ProgressBar>,
}

/// The maximum length of a plain line, because an apiserver that is not ready sends long answers.
const MAX_PLAIN_LINE: usize = 160;

impl Screen {
    pub(crate) fn new(machines: Vec<(String, &'static str)>, time_scale: f64) -> Result<Self> {
        let live = stdout()
            .is_terminal()
            .then(|| Live::new(&machines))
            .transpose()?;
        Ok(Self {
            machines,
            time_scale,
            live,
        })
    }

    /// Shows the progress of the machine number `at`. `news` tells whether it has changed.
    pub(crate) fn show(&self, at: usize, progress: &Progress, news: bool) -> Result<()> {
        match &self.live {
            Some(live) => {
                let line = &live.lines[at];
                if news {
                    line.set_style(style(&progress.state)?);
                }
                line.set_message(progress.line(self.time_scale));
                if progress.state == State::Ready {
                    line.set_position(1);
                }
                let ready = live.lines.iter().filter(|line| line.position() == 1);
                live.total
                    .set_message(format!("{} of {} ready", ready.count(), live.lines.len()));
            }
            None if news => {
                let (name, role) = &self.machines[at];
                // Failures are shown in full.
                let most = match progress.state {
                    State::Failed | State::Refused => usize::MAX,
                    _ => MAX_PLAIN_LINE,
                };
                let line = format!("{name:6} {role:8} {}", progress.line(self.time_scale));
                say(&shortened(&line, most));
            }
            None => {}
        }
        Ok(())
    }

    /// Prints a permanent line above those of the machines.
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
    /// Leaves the last state on the screen.
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

/// Cuts `text` to `most` characters; `…` at the end marks a cut.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Prints a line. A closed stdout is no error, because the machines must not end with it.
pub(crate) fn say(text: &str) {
    let mut stdout = stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_with_an_ellipsis() {
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöüß", 3), "äö…");
    }
}
