//! CPU time and memory of firstboot, without its child processes.
//!
//! systemd sets up a service in the process that then executes it, and `getrusage` continues across
//! `exec`. So CPU time counts from [`begin`], and peak memory is that of this address space.

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// CPU time of this process before `main`.
static BEFORE: OnceLock<Duration> = OnceLock::new();

#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// CPU time, user and system.
    pub processor: Duration,
    pub peak_memory_kib: u64,
}

/// Starts counting; `main` calls it first.
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
    fn peak_memory_comes_from_proc_status() {
        let status =
            "Name:\tfirstboot\nVmPeak:\t   15720 kB\nVmHWM:\t    4792 kB\nVmRSS:\t    4700 kB\n";
        assert_eq!(peak_memory_kib(status), Some(4792));
        assert_eq!(peak_memory_kib("Name:\tx\n"), None);
        assert!(own().peak_memory_kib > 500);
    }

    #[test]
    fn cpu_time_before_begin_does_not_count() {
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
