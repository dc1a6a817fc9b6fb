//! `firstboot status`: the status file in words.

use std::io::{Write, stdout};

use anyhow::{Context, Result, bail};
use userdata::paths::STATUS_FILE;

use crate::report::{Phase, Status, role_name};
use crate::system::files::Root;

/// Prints what firstboot last said of itself.
pub fn print(root: &Root, json: bool) -> Result<()> {
    let Some(bytes) = root.read(STATUS_FILE)? else {
        bail!(
            "`{STATUS_FILE}` is missing: firstboot has not run since this machine was switched on"
        );
    };
    let mut out = stdout().lock();
    if json {
        return out.write_all(&bytes).context("printing the status");
    }
    let status: Status =
        serde_json::from_slice(&bytes).with_context(|| format!("reading `{STATUS_FILE}`"))?;
    out.write_all(text(&status).as_bytes())
        .context("printing the status")
}

fn text(status: &Status) -> String {
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
            "waiting for {} ({} tries): {}\n",
            waiting.endpoint, waiting.tries, waiting.answer
        );
    }
    for reason in &status.reasons {
        text += &format!("  {reason}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Waiting;

    #[test]
    fn a_waiting_machine_says_for_what() {
        let waiting = Waiting {
            endpoint: "apiserver https://10.0.0.1:6443".into(),
            answer: "connection refused".into(),
            tries: 7,
            since: 0,
        };
        let status = Status {
            phase: Phase::Working,
            step: Some("kubeadm-init".into()),
            step_number: 8,
            step_count: 11,
            waiting: Some(waiting),
            ..Status::default()
        };
        assert_eq!(
            text(&status),
            "working\nstep 8/11: kubeadm-init\nwaiting for apiserver https://10.0.0.1:6443 (7 tries): connection refused\n"
        );
    }
}
