//! How far one machine is, from what its journal says. Shows nothing.

use std::time::{Duration, Instant};

use firstboot::journal::{self, field};
use vm_tests::journal::Record;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Firmware, kernel, initrd: nobody who could say something runs yet.
    Starting,
    Working,
    /// Something outside the machine has to answer.
    Waiting,
    /// firstboot starts again by itself.
    Failed,
    /// Starting again does not help.
    Refused,
    Ready,
}

#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) state: State,
    /// How often firstboot ended without success.
    pub(crate) failures: u32,
    /// `n/m` of the step, once there is one.
    step: String,
    text: String,
    /// The guest's clock at the last record, and ours.
    clock: Option<(Duration, Instant)>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Starting,
            failures: 0,
            step: String::new(),
            text: "firmware and kernel".to_owned(),
            clock: None,
        }
    }

    /// Takes a record in; whether it was news.
    pub(crate) fn hear(&mut self, record: &Record) -> bool {
        if let Some(time) = record.since_boot() {
            self.clock = Some((time, Instant::now()));
        }
        let state = match record.get("MESSAGE_ID") {
            Some(journal::STARTED | journal::DOCUMENT_FOUND | journal::STEP_STARTED) => {
                State::Working
            }
            Some(journal::WAITING | journal::DOCUMENT_AWAITED) => State::Waiting,
            Some(journal::FAILED) => State::Failed,
            Some(journal::DOCUMENT_REFUSED) => State::Refused,
            Some(journal::READY) => State::Ready,
            _ => return false,
        };
        if state == State::Failed {
            self.failures += 1;
            // The refusal was told before, with its reason.
            if self.state == State::Refused {
                return false;
            }
        }
        let step = record
            .get(field::STEP_NUMBER)
            .zip(record.get(field::STEP_COUNT));
        if let Some((number, count)) = step {
            self.step = format!("{number}/{count}");
        }
        // Its number has a column of its own.
        let message = record.message();
        let text = message
            .strip_prefix(&format!("[{}] ", self.step))
            .unwrap_or(message);
        self.text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.state = state;
        true
    }

    /// The guest's clock, which runs `pace` as fast as ours.
    pub(crate) fn guest_time(&self, pace: f64) -> Option<Duration> {
        let (time, since) = self.clock?;
        Some(match self.state {
            State::Ready => time,
            _ => time + since.elapsed().mul_f64(pace),
        })
    }

    /// Time in the guest, step, and what it does: in columns.
    pub(crate) fn line(&self, pace: f64) -> String {
        let time = self
            .guest_time(pace)
            .map(|time| format!("{:.1} s", time.as_secs_f64()))
            .unwrap_or_default();
        format!("{time:>8}  {:>5}  {}", self.step, self.text)
    }

    /// What it said last.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn record(id: &str, message: &str, more: &[(&str, &str)]) -> Record {
        let mut fields =
            json!({ "MESSAGE_ID": id, "MESSAGE": message, "__MONOTONIC_TIMESTAMP": "12300000" });
        for (name, value) in more {
            fields[*name] = Value::from(*value);
        }
        Record::parse(&fields.to_string()).expect("a record")
    }

    #[test]
    fn a_machine_is_followed_from_step_to_wait_to_ready() {
        let mut progress = Progress::new();
        assert_eq!(
            progress.line(0.0),
            format!("{:15}  firmware and kernel", "")
        );
        let number = [(field::STEP_NUMBER, "9"), (field::STEP_COUNT, "11")];
        assert!(progress.hear(&record(
            journal::STEP_STARTED,
            "[9/11] kubeadm join",
            &number
        )));
        assert_eq!(progress.line(0.0), "  12.3 s   9/11  kubeadm join");
        assert!(progress.hear(&record(journal::WAITING, "waiting for m0:\nrefused", &[])));
        assert_eq!(
            progress.line(0.0),
            "  12.3 s   9/11  waiting for m0: refused"
        );
        assert_eq!(progress.state, State::Waiting);
        assert!(!progress.hear(&record(journal::STEP_DONE, "done", &number)));
        assert!(progress.hear(&record(journal::READY, "m1 (master) is ready", &[])));
        assert_eq!(progress.state, State::Ready);
    }

    #[test]
    fn a_refusal_stays_the_reason_when_firstboot_ends() {
        let mut progress = Progress::new();
        progress.hear(&record(
            journal::DOCUMENT_REFUSED,
            "user-data:2:1: no such key",
            &[],
        ));
        assert!(!progress.hear(&record(journal::FAILED, "failed", &[])));
        assert_eq!(progress.state, State::Refused);
        assert_eq!(progress.text(), "user-data:2:1: no such key");
        let mut progress = Progress::new();
        progress.hear(&record(journal::FAILED, "disk full", &[]));
        assert_eq!(
            (progress.state.clone(), progress.failures),
            (State::Failed, 1)
        );
    }
}
