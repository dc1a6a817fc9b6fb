//! Log records go to the journal under systemd, else to standard error as plain lines.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::JournalLog;

/// Installs the logger. Under systemd, records go to the journal with their fields.
pub fn install() {
    log::set_max_level(LevelFilter::Debug);
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = JournalLog::new()
        && log::set_boxed_logger(Box::new(OwnRecords(journal))).is_ok()
    {
        return;
    }
    log::set_max_level(LevelFilter::Info);
    let _ = log::set_boxed_logger(Box::new(OwnRecords(StandardError)));
}

/// Drops the records of libraries: they write several debug lines a second during a wait.
struct OwnRecords<L>(L);

impl<L: Log> Log for OwnRecords<L> {
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
