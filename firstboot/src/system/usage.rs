//! What firstboot itself has used so far, without the programs it ran.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Processor time, user and system.
    pub processor: Duration,
    pub peak_memory_kib: u64,
}

pub fn own() -> Usage {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
        return Usage::default();
    };
    let microseconds =
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Usage {
        processor: Duration::from_micros(u64::try_from(microseconds).unwrap_or_default()),
        peak_memory_kib: u64::try_from(usage.max_rss()).unwrap_or_default(),
    }
}
