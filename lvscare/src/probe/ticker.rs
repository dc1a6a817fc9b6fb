//! A ticker that aligns all periodic work to cut wake-ups.
//!
//! Wake-ups are most of the cost of a probe: probing three servers at once takes half the CPU time
//! of probing them one by one (0.11 and 0.24 % of a core, measured natively, 27 Nov 2026).

use std::time::Duration;

use tokio::time::Instant;

/// Counts from its creation. Nodes do not synchronize: each has its own start, even if something
/// delays all their probes at once.
#[derive(Debug, Clone, Copy)]
pub struct Ticker(Instant);

impl Ticker {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The next multiple of `period` since the start, after now. A zero period counts as 1 ns.
    pub fn next(self, period: Duration) -> Instant {
        let period = nanoseconds(period).max(1);
        let elapsed = nanoseconds(self.0.elapsed());
        self.0 + Duration::from_nanos(elapsed - elapsed % period + period)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn next_tick_is_in_the_future_and_shared() {
        let ticker = Ticker::start();
        let start = Instant::now();
        let period = Duration::from_millis(500);
        assert_eq!(ticker.next(period), start + period, "now itself is over");
        advance(Duration::from_millis(499)).await;
        assert_eq!(ticker.next(period), start + period);
        advance(Duration::from_millis(1)).await;
        assert_eq!(ticker.next(period), start + 2 * period);
        // Missed ticks are skipped.
        advance(Duration::from_secs(3600)).await;
        assert_eq!(
            ticker.next(period),
            start + Duration::from_millis(3_601_000)
        );
        assert_eq!(ticker.next(10 * period), start + Duration::from_secs(3605));
    }

    #[tokio::test(start_paused = true)]
    async fn any_period_gives_a_future_tick() {
        let ticker = Ticker::start();
        advance(Duration::from_secs(100 * 86_400)).await;
        assert!(ticker.next(Duration::ZERO) > Instant::now());
        assert!(ticker.next(Duration::MAX) > Instant::now());
    }
}
