//! What firstboot itself has used so far, without the programs it ran.

use std::fs;
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
        peak_memory_kib: peak_memory_kib().unwrap_or_default(),
    }
}

/// Not getrusage(2)'s: that one outlives execve(2), and is systemd's own where systemd starts us.
fn peak_memory_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_this_programs() {
        let peak = own().peak_memory_kib;
        assert!(peak > 1000, "{peak} KiB");
    }
}
