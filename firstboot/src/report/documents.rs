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

    /// The document is encrypted, and a person must give the passphrase.
    pub(crate) fn passphrase_awaited(&mut self, tried: Vec<String>) {
        let machine = Identity::read(&self.root).unwrap_or_default();
        self.show(&Screen::encrypted(&self.root, &machine, tried));
        self.status.phase = Phase::Working;
    }

    pub(crate) fn passphrase_found(&mut self) {
        (self.status.waiting, self.last_report) = (None, None);
        self.publish("The document is open");
    }

    /// No source has a document for this machine.
    pub fn no_document(&mut self, machine: &Identity, reasons: Vec<String>) {
        if self.has_reported(machine, &reasons) {
            return;
        }
        self.awaiting = Some(machine.clone());
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

    /// Whether the last report is the same. The address of a network card that has appeared is what a
    /// person needs for a document.
    fn has_reported(&self, machine: &Identity, reasons: &[String]) -> bool {
        self.status.phase == Phase::NoDocument
            && self.status.reasons == reasons
            && self.awaiting.as_ref() == Some(machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::files::Root;
    use crate::system::machine::Link;

    #[test]
    fn missing_document_is_reported_again_when_a_card_appears() {
        let dir = tempfile::tempdir().unwrap();
        let mut reporter = Reporter::silent(&Root::new(dir.path()));
        let mut machine = Identity::default();
        let reasons = vec!["cidata: no disk is labelled `cidata`".to_owned()];
        assert!(!reporter.has_reported(&machine, &reasons));
        reporter.no_document(&machine, reasons.clone());
        assert!(reporter.has_reported(&machine, &reasons));
        machine.links.push(Link {
            name: "enp1s0".to_owned(),
            mac: "52:54:00:00:07:10".to_owned(),
            permanent: None,
        });
        assert!(!reporter.has_reported(&machine, &reasons));
        reporter.no_document(&machine, reasons.clone());
        assert!(reporter.has_reported(&machine, &reasons));
        assert!(!reporter.has_reported(&machine, &[]));
    }
}
