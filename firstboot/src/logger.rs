//! Where log records go: the journal under systemd, else plain lines on standard error.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::JournalLog;

/// Installs the logger. Under systemd, standard error is connected to the journal; our records go there with fields.
pub fn install() {
    log::set_max_level(LevelFilter::Debug);
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = JournalLog::new()
        && log::set_boxed_logger(Box::new(Ours(journal))).is_ok()
    {
        return;
    }
    log::set_max_level(LevelFilter::Info);
    let _ = log::set_boxed_logger(Box::new(Ours(StandardError)));
}

/// Lets through what firstboot says itself: its libraries' debug lines, several a second while an apiserver is waited
/// for, only matter under a debugger.
struct Ours<L>(L);

impl<L: Log> Log for Ours<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("firstboot")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

struct StandardError;

impl Log for StandardError {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let _ = writeln!(std::io::stderr(), "firstboot: {}", record.args());
    }

    fn flush(&self) {}
}
