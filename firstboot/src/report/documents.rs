//! Reports what was refused, what is kept, and that there is no document.

use crate::journal;
use crate::screen::Screen;
use crate::status::{DocumentStatus, Phase};
use crate::system::machine::Identity;

use super::Reporter;

impl Reporter {
    /// A document that this machine may not take; it boots with its own.
    pub fn document_ignored(&mut self, source: &str, reason: &str) {
        let text = format!("refused a document: {reason}");
        log::error!(
            MESSAGE_ID = journal::DOCUMENT_IGNORED, FIRSTLIGHT_SOURCE = source, FIRSTLIGHT_REASON = reason;
            "{text}; this machine keeps its own"
        );
        for line in text.lines() {
            self.console(line);
        }
        self.status.reasons.push(text);
        self.write_status();
    }

    /// The document that the machine obeys, for the status.
    pub fn document_kept(&mut self, document: DocumentStatus) {
        self.status.document = Some(document);
        self.write_status();
    }

    pub fn no_document(&mut self, machine: &Identity, reasons: Vec<String>) {
        if self.status.phase == Phase::NoDocument && self.status.reasons == reasons {
            return;
        }
        let text = reasons.join("; ");
        log::warn!(
            MESSAGE_ID = journal::DOCUMENT_AWAITED, FIRSTLIGHT_REASON = text.as_str();
            "no document for this machine ({machine}): {text}; waiting for a disk labelled `cidata`"
        );
        self.show(&Screen::no_document(&self.root, machine, &reasons));
        self.status.phase = Phase::NoDocument;
        self.status.reasons = reasons;
        self.publish(&format!("No document for this machine: {text}"));
    }
}
