//! When an unchanged wait is reported again.

use std::time::{Duration, Instant};

/// The first repeat of an unchanged wait; the interval doubles up to [`MAX_REPEAT`].
const FIRST_REPEAT: Duration = Duration::from_secs(60);
const MAX_REPEAT: Duration = Duration::from_secs(3600);

/// A wait as last written to journal and console.
#[derive(Debug)]
pub(super) struct LastReport {
    pub(super) endpoint: String,
    pub(super) answer: String,
    pub(super) at: Instant,
    /// Repeated after this time without a change; each time twice as long.
    pub(super) repeat_after: Duration,
}

/// Returns the next repeat interval if this status should be logged.
pub(super) fn next_repeat(
    last: Option<&LastReport>,
    endpoint: &str,
    answer: &str,
) -> Option<Duration> {
    match last {
        Some(last) if last.endpoint == endpoint && last.answer == answer => {
            let longer = (last.repeat_after * 2).min(MAX_REPEAT);
            (last.at.elapsed() >= last.repeat_after).then_some(longer)
        }
        _ => Some(FIRST_REPEAT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_answer_is_logged_at_growing_intervals() {
        let last = |at: u64, repeat_after: u64| LastReport {
            endpoint: "m0".into(),
            answer: "refused".into(),
            at: Instant::now().checked_sub(Duration::from_secs(at)).unwrap(),
            repeat_after: Duration::from_secs(repeat_after),
        };
        let repeat =
            |last: LastReport, answer| next_repeat(Some(&last), "m0", answer).map(|d| d.as_secs());
        assert_eq!(next_repeat(None, "m0", "refused"), Some(FIRST_REPEAT));
        assert_eq!(repeat(last(59, 60), "503"), Some(60));
        assert_eq!(repeat(last(59, 60), "refused"), None);
        assert_eq!(repeat(last(61, 60), "refused"), Some(120));
        assert_eq!(repeat(last(3601, 3600), "refused"), Some(3600));
    }
}
