//! `firstboot status`: the status of this machine as text.

use std::io::{Write, stdout};

use anyhow::{Context, Result, bail};
use userdata::contract::STATUS_FILE;

use super::{Phase, StatusReport, role_name};
use crate::system::files::Root;

/// Prints the last status of firstboot.
pub fn print(root: &Root, json: bool) -> Result<()> {
    let Some(report) = StatusReport::read(root)? else {
        bail!("`{STATUS_FILE}` is missing: firstboot has not run since this machine booted");
    };
    let text = if json {
        let json = serde_json::to_string_pretty(&report.status).context("writing the status")?;
        json + "\n"
    } else {
        text(&report)
    };
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())
        .context("printing the status")
}

fn text(report: &StatusReport) -> String {
    let status = &report.status;
    let mut text = match (&status.host, &status.source) {
        (Some(host), Some(source)) => format!(
            "{host} ({}), document from {source}\n",
            role_name(status.role)
        ),
        _ => String::new(),
    };
    if let Some(document) = &status.document {
        text += &match (document.generation, &document.signer) {
            (Some(generation), Some(signer)) => {
                format!("  generation {generation}, signed by {signer}\n")
            }
            _ => "  without a signature: only `firstboot reset` lets another one in\n".to_owned(),
        };
        if let Some(secrets) = &document.secrets {
            text += &format!("  {secrets}\n");
        }
    }
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
            age(report.uptime.saturating_sub(waiting.since_uptime)),
            tries(waiting.tries),
            waiting.answer
        );
    }
    for note in &status.notes {
        text += &format!("note: {note}\n");
    }
    for reason in &status.reasons {
        text += &format!("  {reason}\n");
    }
    // Without a document they are among the reasons.
    if status.phase != Phase::NoDocument {
        for decision in &status.sources {
            text += &format!("source {}: {}\n", decision.source, decision.reason);
        }
    }
    for print in &status.ssh_host_keys {
        text += &format!("SSH host key: {print}\n");
    }
    text
}

pub(crate) fn tries(tries: u64) -> String {
    let word = if tries == 1 { "try" } else { "tries" };
    format!("{tries} {word}")
}

/// A duration in one unit, rounded down.
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
    fn waiting_machine_shows_target_age_and_tries() {
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
        let report = StatusReport {
            uptime: 230,
            status,
        };
        assert_eq!(
            text(&report),
            "working\nstep 8/11: apiserver-ready\nwaiting for apiserver https://10.0.0.1:6443\n  since 3 min, 150 tries\n  \
             last answer: connection refused\n"
        );
    }

    #[test]
    fn ready_machine_shows_the_fingerprints_of_its_ssh_server() {
        let status = Status {
            phase: Phase::Ready,
            ssh_host_keys: vec!["256 SHA256:abc (ED25519)".to_owned()],
            ..Status::default()
        };
        let report = StatusReport { uptime: 1, status };
        assert_eq!(
            text(&report),
            "ready\nSSH host key: 256 SHA256:abc (ED25519)\n"
        );
    }

    #[test]
    fn age_has_one_unit() {
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
