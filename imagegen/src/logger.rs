//! Log lines on standard error: `info: hooks/build: …`.

use log::{LevelFilter, Log, Metadata, Record};

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.level() <= log::max_level() {
            let level = record.level().as_str().to_lowercase();
            eprintln!("{level}: {}", record.args());
        }
    }

    fn flush(&self) {}
}

pub(crate) fn install(verbose: bool) {
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(match verbose {
            true => LevelFilter::Debug,
            false => LevelFilter::Warn,
        });
    }
}
