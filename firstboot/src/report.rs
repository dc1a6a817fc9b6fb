//! Reports events to the journal, the console, systemd's status line and the status file.
//!
//! One method for each event, so that all four have the same text.

pub(crate) mod console;
mod documents;
mod repeat;

use std::time::{Duration, Instant};

use anyhow::Error;
use sd_notify::NotifyState;
use userdata::contract::{RESULT_FILE, STATUS_FILE};
use userdata::node_config::Role;

use crate::boot::Refused;
use crate::journal;
use crate::kubeadm::marker;
use crate::screen::Screen;
use crate::source::{Attempt, Seed, SourceResult};
use crate::status::text::{age, tries};
use crate::status::{Decision, Phase, Status, Wait, Waiting, now, role_name};
use crate::system::files::Root;
use crate::system::machine::Identity;
use crate::system::usage;
use repeat::{LastReport, next_repeat};

/// Exists while the machine is ready; on a tmpfs.
pub const READY_FILE: &str = "/run/firstlight/ready";
/// Exists after firstboot failed, with the reason.
pub const FAILED_FILE: &str = "/run/firstlight/failed";

#[derive(Debug)]
pub struct Reporter {
    root: Root,
    start: Instant,
    status: Status,
    /// The last report of the current wait.
    last_report: Option<LastReport>,
    /// The machine without a document that was reported last.
    awaiting: Option<Identity>,
}

/// A step of the running list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepRef {
    pub(crate) name: &'static str,
    /// From 1.
    pub(crate) number: usize,
    pub(crate) count: usize,
}

impl Reporter {
    /// Reports for a running machine; for a directory, only to the log.
    pub fn new(root: &Root) -> Self {
        let reporter = Self::silent(root);
        for mark in [READY_FILE, FAILED_FILE] {
            if root.is_machine() {
                let _ = root.remove(mark);
            }
        }
        let version = env!("CARGO_PKG_VERSION");
        log::info!(MESSAGE_ID = journal::STARTED, FIRSTLIGHT_VERSION = version; "firstboot {version}");
        reporter
    }

    /// Does not report the start: for `--plan`, which changes nothing.
    pub fn silent(root: &Root) -> Self {
        Self {
            root: root.clone(),
            start: Instant::now(),
            status: Status {
                since: now(),
                ..Status::default()
            },
            last_report: None,
            awaiting: None,
        }
    }

    /// What a person must know about this boot, whatever happens in it.
    pub fn note(&mut self, text: String) {
        log::info!("{text}");
        self.console(&text);
        self.status.notes.push(text);
        self.write_status();
    }

    pub(crate) fn source_tried(&mut self, attempt: &Attempt) {
        let source = attempt.source;
        let (result, bytes, reason) = match &attempt.result {
            Ok(SourceResult::Found(seed)) => {
                ("found", seed.bytes(), format!("found {}", seed.origin))
            }
            Ok(SourceResult::NotFound(reason)) => ("nothing", 0, format!("not found: {reason}")),
            Err(error) => ("broken", 0, format!("broken: {error:#}")),
        };
        let decision = Decision {
            source: source.to_owned(),
            result: result.to_owned(),
            reason: reason.clone(),
        };
        // A machine without a document asks again and again.
        self.status.sources.retain(|known| known.source != source);
        self.status.sources.push(decision);
        log::info!(
            MESSAGE_ID = journal::SOURCE_TRIED,
            FIRSTLIGHT_SOURCE = source,
            FIRSTLIGHT_RESULT = result,
            FIRSTLIGHT_BYTES = bytes,
            FIRSTLIGHT_DURATION_MS = millis(attempt.duration),
            FIRSTLIGHT_REASON = reason.as_str();
            "source {source}: {reason}"
        );
    }

    pub fn document_found(&mut self, source: &str, seed: &Seed, host: &str, role: Option<Role>) {
        self.status.phase = Phase::Working;
        self.status.host = Some(host.to_owned());
        self.status.role = role;
        self.status.source = Some(format!("{source} ({})", seed.origin));
        self.status.reasons.clear();
        self.look_at_markers();
        let role = role_name(role);
        let text = format!("{host} ({role}), document from {}", seed.origin);
        log::info!(
            MESSAGE_ID = journal::DOCUMENT_FOUND,
            FIRSTLIGHT_SOURCE = source,
            FIRSTLIGHT_HOST = host,
            FIRSTLIGHT_ROLE = role;
            "this is {text}"
        );
        self.console(&format!("this is {text}"));
        self.publish(&format!("This is {text}"));
    }

    /// `reason` names file, line and key of each mistake.
    pub fn document_refused(&mut self, source: &str, reason: &str) {
        log::error!(
            MESSAGE_ID = journal::DOCUMENT_REFUSED, FIRSTLIGHT_SOURCE = source, FIRSTLIGHT_REASON = reason; "{reason}"
        );
    }

    pub(crate) fn step_started(&mut self, step: StepRef, text: &str) {
        let StepRef {
            name,
            number,
            count,
        } = step;
        self.status.step = Some(name.to_owned());
        (self.status.step_number, self.status.step_count) = (number, count);
        (self.status.waiting, self.last_report) = (None, None);
        self.look_at_markers();
        log::info!(
            MESSAGE_ID = journal::STEP_STARTED,
            FIRSTLIGHT_STEP = name,
            FIRSTLIGHT_STEP_NUMBER = number,
            FIRSTLIGHT_STEP_COUNT = count;
            "[{number}/{count}] {text}"
        );
        self.console(&format!("[{number}/{count}] {text}"));
        self.publish(&format!("[{number}/{count}] {text}"));
    }

    pub(crate) fn step_done(&mut self, step: StepRef, took: Duration) {
        let StepRef {
            name,
            number,
            count,
        } = step;
        log::info!(
            MESSAGE_ID = journal::STEP_DONE,
            FIRSTLIGHT_STEP = name,
            FIRSTLIGHT_STEP_NUMBER = number,
            FIRSTLIGHT_STEP_COUNT = count,
            FIRSTLIGHT_DURATION_MS = millis(took);
            "[{number}/{count}] {name}: done in {} ms", millis(took)
        );
    }

    pub(crate) fn step_skipped(&mut self, step: StepRef, reason: &str) {
        let StepRef {
            name,
            number,
            count,
        } = step;
        log::info!(
            MESSAGE_ID = journal::STEP_SKIPPED,
            FIRSTLIGHT_STEP = name,
            FIRSTLIGHT_STEP_NUMBER = number,
            FIRSTLIGHT_STEP_COUNT = count,
            FIRSTLIGHT_REASON = reason;
            "[{number}/{count}] {name}: {reason}"
        );
    }

    pub(crate) fn step_failed(&mut self, step: StepRef, took: Duration, error: &Error) {
        let StepRef {
            name,
            number,
            count,
        } = step;
        let reason = format!("{error:#}");
        log::error!(
            MESSAGE_ID = journal::STEP_FAILED,
            FIRSTLIGHT_STEP = name,
            FIRSTLIGHT_STEP_NUMBER = number,
            FIRSTLIGHT_STEP_COUNT = count,
            FIRSTLIGHT_DURATION_MS = millis(took),
            FIRSTLIGHT_REASON = reason.as_str();
            "[{number}/{count}] {name}: {reason}"
        );
    }

    /// Reports that a part of the document does not work which later steps do not need.
    pub fn degraded(&mut self, reason: &str) {
        self.add_reason(reason, &format!("{reason}; continuing without it"));
    }

    /// Reports what a person should mend, although all that the document wants is done.
    pub fn attention(&mut self, reason: &str) {
        self.add_reason(reason, reason);
    }

    fn add_reason(&mut self, reason: &str, text: &str) {
        log::error!(FIRSTLIGHT_REASON = reason; "{text}");
        for line in format!("error: {text}").lines() {
            self.console(line);
        }
        self.status.reasons.push(reason.to_owned());
        self.write_status();
    }

    /// The first action of kubeadm or kubelet follows. Reports the cost of firstboot until here.
    pub fn kubeadm_started(&mut self) {
        let (own, wall) = (usage::own(), self.start.elapsed());
        log::info!(
            MESSAGE_ID = journal::KUBEADM_STARTED,
            FIRSTLIGHT_OWN_MS = millis(own.processor),
            FIRSTLIGHT_SINCE_START_MS = millis(wall),
            FIRSTLIGHT_PEAK_MEMORY_KIB = own.peak_memory_kib;
            "starting kubeadm after {} ms ({} ms of CPU time, {} KiB)",
            millis(wall), millis(own.processor), own.peak_memory_kib
        );
    }

    /// Reports a failed try of a wait. The status file has every try; journal, console and systemd
    /// get a line when the answer changes, and at growing intervals while it does not.
    pub fn waiting(&mut self, endpoint: &str, answer: &str, wait: &Wait) {
        let waiting = Waiting {
            endpoint: endpoint.to_owned(),
            answer: answer.to_owned(),
            tries: wait.tries,
            since: wait.since,
            since_uptime: wait.since_uptime,
        };
        self.status.waiting = Some(waiting);
        let Some(repeat_after) = next_repeat(self.last_report.as_ref(), endpoint, answer) else {
            self.write_status();
            return;
        };
        self.last_report = Some(LastReport {
            endpoint: endpoint.to_owned(),
            answer: answer.to_owned(),
            at: Instant::now(),
            repeat_after,
        });
        let step = self.status.step.clone().unwrap_or_default();
        let text = match wait.age() {
            0 => format!("{endpoint}: {answer}"),
            seconds => format!(
                "{endpoint} since {} ({}): {answer}",
                age(seconds),
                tries(wait.tries)
            ),
        };
        log::info!(
            MESSAGE_ID = journal::WAITING,
            FIRSTLIGHT_STEP = step.as_str(),
            FIRSTLIGHT_ENDPOINT = endpoint,
            FIRSTLIGHT_ANSWER = answer,
            FIRSTLIGHT_TRIES = wait.tries,
            FIRSTLIGHT_SINCE_MS = wait.age() * 1000;
            "waiting for {text}"
        );
        self.console(&format!("waiting for {text}"));
        self.publish(&format!("Waiting for {text}"));
    }

    /// The wait is over.
    pub fn wait_finished(&mut self) {
        if self.status.waiting.take().is_some() {
            self.last_report = None;
            let (number, count) = (self.status.step_number, self.status.step_count);
            let step = self.status.step.clone().unwrap_or_default();
            self.publish(&format!("[{number}/{count}] {step}"));
        }
    }

    pub fn ready(&mut self, changed: usize) {
        let (own, wall) = (usage::own(), self.start.elapsed());
        self.status.phase = Phase::Ready;
        (self.status.step, self.status.waiting) = (None, None);
        let host = self.status.host.clone().unwrap_or_default();
        let role = role_name(self.status.role);
        log::info!(
            MESSAGE_ID = journal::READY,
            FIRSTLIGHT_HOST = host.as_str(),
            FIRSTLIGHT_ROLE = role,
            FIRSTLIGHT_DURATION_MS = millis(wall),
            FIRSTLIGHT_OWN_MS = millis(own.processor),
            FIRSTLIGHT_PEAK_MEMORY_KIB = own.peak_memory_kib,
            FIRSTLIGHT_CHANGED = changed;
            "{host} ({role}) is ready after {:.1} s", wall.as_secs_f64()
        );
        self.console(&format!(
            "{host} ({role}) is ready after {:.1} s",
            wall.as_secs_f64()
        ));
        self.host_keys();
        self.publish(&format!("{host} ({role}) is ready"));
        self.mark(READY_FILE, "");
        if self.root.is_machine() {
            let _ = sd_notify::notify(&[NotifyState::Ready]);
        }
    }

    pub fn failed(&mut self, error: &Error) {
        let reason = format!("{error:#}");
        self.status.phase = Phase::Failed;
        self.status.reasons = vec![reason.clone()];
        log::error!(MESSAGE_ID = journal::FAILED, FIRSTLIGHT_REASON = reason.as_str(); "{reason}");
        if error.is::<Refused>() {
            let machine = Identity::read(&self.root).unwrap_or_default();
            self.show(&Screen::refused(&self.root, &machine, &reason));
        } else {
            for line in format!("error: {reason}").lines() {
                self.console(line);
            }
            self.console(
                "see `journalctl --unit firstboot`; firstboot resumes from this step on retry",
            );
        }
        self.publish(&format!(
            "Failed: {}",
            reason.lines().next().unwrap_or_default()
        ));
        self.mark(FAILED_FILE, &reason);
    }

    /// A marker of another cluster, or none without the authority yet, is no membership.
    fn look_at_markers(&mut self) {
        self.status.in_control_plane = marker::in_control_plane(&self.root).unwrap_or(false);
    }

    fn publish(&self, text: &str) {
        if self.root.is_machine() {
            let _ = sd_notify::notify(&[NotifyState::Status(text)]);
        }
        self.write_status();
    }

    fn write_status(&self) {
        if let Ok(mut bytes) = serde_json::to_vec_pretty(&self.status.outcome()) {
            bytes.push(b'\n');
            self.mark_bytes(RESULT_FILE, &bytes);
        }
        if let Ok(mut bytes) = serde_json::to_vec_pretty(&self.status) {
            bytes.push(b'\n');
            self.mark_bytes(STATUS_FILE, &bytes);
        }
    }

    fn mark(&self, path: &str, text: &str) {
        self.mark_bytes(path, format!("{text}\n").as_bytes());
    }

    fn mark_bytes(&self, path: &str, bytes: &[u8]) {
        if !self.root.is_machine() {
            return;
        }
        if let Err(error) = self.root.write_volatile(path, bytes) {
            log::warn!("{error:#}; continuing without it");
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
