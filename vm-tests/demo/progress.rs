//! The progress of one machine, from the records of its journal.

use std::time::{Duration, Instant};

use firstboot::journal::{self, field};
use vm_tests::machine::journal::Record;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Firmware, kernel or initrd: firstboot does not run yet.
    Starting,
    Working,
    /// firstboot waits for something outside the machine.
    Waiting,
    /// firstboot has failed; systemd restarts it.
    Failed,
    /// The document is wrong, so a restart does not help.
    Refused,
    Ready,
}

#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) state: State,
    /// How often firstboot has failed.
    pub(crate) failures: u32,
    /// `n/m` of the current step; empty before the first.
    step: String,
    text: String,
    /// The guest's clock and the host's clock at the last record.
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

    /// Reads a record. Returns whether it changes the progress.
    pub(crate) fn update(&mut self, record: &Record) -> bool {
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
            // The record before has the reason of the refusal.
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
        // The number of the step has a column of its own.
        let message = record.message();
        let text = message
            .strip_prefix(&format!("[{}] ", self.step))
            .unwrap_or(message);
        self.text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.state = state;
        true
    }

    /// The guest's clock now. It runs `time_scale` times as fast as the host's.
    pub(crate) fn guest_time(&self, time_scale: f64) -> Option<Duration> {
        let (time, since) = self.clock?;
        Some(match self.state {
            State::Ready => time,
            _ => time + since.elapsed().mul_f64(time_scale),
        })
    }

    /// The columns guest time, step and message.
    pub(crate) fn line(&self, time_scale: f64) -> String {
        let time = self
            .guest_time(time_scale)
            .map(|time| format!("{:.1} s", time.as_secs_f64()))
            .unwrap_or_default();
        format!("{time:>8}  {:>5}  {}", self.step, self.text)
    }

    /// The last message.
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
    fn progress_follows_steps_waits_and_ready() {
        let mut progress = Progress::new();
        assert_eq!(
            progress.line(0.0),
            format!("{:15}  firmware and kernel", "")
        );
        let number = [(field::STEP_NUMBER, "9"), (field::STEP_COUNT, "11")];
        assert!(progress.update(&record(
            journal::STEP_STARTED,
            "[9/11] kubeadm join",
            &number
        )));
        assert_eq!(progress.line(0.0), "  12.3 s   9/11  kubeadm join");
        assert!(progress.update(&record(journal::WAITING, "waiting for m0:\nrefused", &[])));
        assert_eq!(
            progress.line(0.0),
            "  12.3 s   9/11  waiting for m0: refused"
        );
        assert_eq!(progress.state, State::Waiting);
        assert!(!progress.update(&record(journal::STEP_DONE, "done", &number)));
        assert!(progress.update(&record(journal::READY, "m1 (master) is ready", &[])));
        assert_eq!(progress.state, State::Ready);
    }

    #[test]
    fn refusal_stays_the_reason_when_firstboot_fails() {
        let mut progress = Progress::new();
        progress.update(&record(
            journal::DOCUMENT_REFUSED,
            "user-data:2:1: no such key",
            &[],
        ));
        assert!(!progress.update(&record(journal::FAILED, "failed", &[])));
        assert_eq!(progress.state, State::Refused);
        assert_eq!(progress.text(), "user-data:2:1: no such key");
        let mut progress = Progress::new();
        progress.update(&record(journal::FAILED, "disk full", &[]));
        assert_eq!(
            (progress.state.clone(), progress.failures),
            (State::Failed, 1)
        );
    }
}
