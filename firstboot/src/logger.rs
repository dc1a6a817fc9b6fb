//! Where log records go: the journal under systemd, else plain lines on standard error.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::JournalLog;

/// Installs the logger. Under systemd, standard error is connected to the journal; our records go there with fields.
pub fn install() {
    log::set_max_level(LevelFilter::Debug);
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = JournalLog::new()
        && journal.install().is_ok()
    {
        return;
    }
    log::set_max_level(LevelFilter::Info);
    let _ = log::set_boxed_logger(Box::new(StandardError));
}

#[derive(Debug)]
struct StandardError;

impl Log for StandardError {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // zbus and netlink have things to say that only matter under a debugger.
        if record.target().starts_with("firstboot") {
            let _ = writeln!(std::io::stderr(), "firstboot: {}", record.args());
        }
    }

    fn flush(&self) {}
}
