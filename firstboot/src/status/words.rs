//! `firstboot status`: this machine's status in words.

use std::io::{Write, stdout};

use anyhow::{Context, Result, bail};
use userdata::contract::STATUS_FILE;

use super::{Phase, Told, role_name};
use crate::system::files::Root;

/// Prints what firstboot last said of itself.
pub fn print(root: &Root, json: bool) -> Result<()> {
    let Some(told) = Told::read(root)? else {
        bail!(
            "`{STATUS_FILE}` is missing: firstboot has not run since this machine was switched on"
        );
    };
    let text = if json {
        let json = serde_json::to_string_pretty(&told.status).context("writing the status")?;
        json + "\n"
    } else {
        text(&told)
    };
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())
        .context("printing the status")
}

fn text(told: &Told) -> String {
    let status = &told.status;
    let mut text = match (&status.host, &status.source) {
        (Some(host), Some(source)) => format!("{host} ({}), by {source}\n", role_name(status.role)),
        _ => String::new(),
    };
    text += match status.phase {
        Phase::Starting => "looking for a document\n",
        Phase::NoDocument => "no document for this machine; waiting for a disk labelled `cidata`\n",
        Phase::Working => "working\n",
        Phase::Ready => "ready\n",
        Phase::Failed => "failed\n",
    };
    if let Some(step) = &status.step {
        text += &format!(
            "step {}/{}: {step}\n",
            status.step_number, status.step_count
        );
    }
    if let Some(waiting) = &status.waiting {
        text += &format!(
            "waiting for {}\n  since {}, {}\n  last answer: {}\n",
            waiting.endpoint,
            age(told.uptime.saturating_sub(waiting.since_uptime)),
            tries(waiting.tries),
            waiting.answer
        );
    }
    for reason in &status.reasons {
        text += &format!("  {reason}\n");
    }
    text
}

pub(crate) fn tries(tries: u64) -> String {
    let word = if tries == 1 { "try" } else { "tries" };
    format!("{tries} {word}")
}

/// A duration in seconds as people say it: one unit, rounded down.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Status, Waiting};

    #[test]
    fn a_waiting_machine_says_for_what_since_when_and_how_often() {
        let waiting = Waiting {
            endpoint: "apiserver https://10.0.0.1:6443".into(),
            answer: "connection refused".into(),
            tries: 150,
            // The clock was set ten years ahead while it waited.
            since: 0,
            since_uptime: 20,
        };
        let status = Status {
            phase: Phase::Working,
            step: Some("apiserver-ready".into()),
            step_number: 8,
            step_count: 11,
            waiting: Some(waiting),
            since: 315_360_000,
            ..Status::default()
        };
        let told = Told {
            uptime: 230,
            status,
        };
        assert_eq!(
            text(&told),
            "working\nstep 8/11: apiserver-ready\nwaiting for apiserver https://10.0.0.1:6443\n  since 3 min, 150 tries\n  \
             last answer: connection refused\n"
        );
    }

    #[test]
    fn ages_have_one_unit() {
        for (seconds, text) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7199, "119 min"),
            (7200, "2 h"),
            (200_000, "2 days"),
        ] {
            assert_eq!(age(seconds), text, "{seconds}");
        }
    }
}
