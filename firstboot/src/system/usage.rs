//! What firstboot itself has used so far, without the programs it ran and without what was in its process before it.
//!
//! systemd prepares a service in the process that then becomes it, and `getrusage` counts on across `exec`: processor
//! time, and the peak of memory too. So the time is counted from [`begin`], and the peak asked of this address space.

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// Processor time of this process before its first instruction was ours.
static BEFORE: OnceLock<Duration> = OnceLock::new();

#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Processor time, user and system.
    pub processor: Duration,
    pub peak_memory_kib: u64,
}

/// Counts from here; the first thing that `main` does.
pub fn begin() {
    BEFORE.get_or_init(processor);
}

pub fn own() -> Usage {
    let before = BEFORE.get().copied().unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Usage {
        processor: processor().saturating_sub(before),
        peak_memory_kib: peak_memory_kib(&status).unwrap_or_default(),
    }
}

fn processor() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
        return Duration::ZERO;
    };
    let microseconds =
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(microseconds).unwrap_or_default())
}

/// `VmHWM:      4792 kB`: "peak resident set size" of proc_pid_status(5).
fn peak_memory_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_the_kernels_own_words() {
        let status =
            "Name:\tfirstboot\nVmPeak:\t   15720 kB\nVmHWM:\t    4792 kB\nVmRSS:\t    4700 kB\n";
        assert_eq!(peak_memory_kib(status), Some(4792));
        assert_eq!(peak_memory_kib("Name:\tx\n"), None);
        assert!(own().peak_memory_kib > 500);
    }

    #[test]
    fn what_was_before_does_not_count() {
        let before = Duration::from_millis(20);
        let mut sum = 0_u64;
        while processor() < before {
            sum = std::hint::black_box(sum + 1);
        }
        begin();
        let own = own().processor;
        assert!(processor() - own >= before);
    }
}
