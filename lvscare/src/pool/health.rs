//! The health of one server: probe verdicts in, class out.
//!
//! Pure: time is an argument. `probe` makes the verdicts, `pool` derives table and connections from
//! the class.

use std::fmt;
use std::time::{Duration, Instant};

/// A second failure within this time doubles the required number of good probes.
const FLAP_WINDOW: Duration = Duration::from_secs(60);

/// After this time without a failure the required number of good probes halves.
const QUIET: Duration = Duration::from_secs(5 * 60);

/// Upper bound of the time that a flapping server must be healthy.
const LONGEST_HOLD: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// No verdict yet: the table keeps the server as it is.
    Unknown,
    Up,
    /// Accepts TCP but does not serve: gets no new connections.
    Sick,
    /// No server: its connections are dead.
    Gone,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Sick => "sick",
            Self::Gone => "gone",
        })
    }
}

/// The verdict of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Up,
    /// A wrong or late response.
    Sick {
        cause: String,
    },
    /// The server reports that it is not ready (5xx from `/readyz`); takes effect immediately.
    Draining {
        cause: String,
    },
    /// The port is closed. The response proves that the host and the path to it work.
    Refused {
        cause: String,
    },
    /// No response: the host or this node is disconnected.
    Silent {
        cause: String,
    },
}

impl Verdict {
    pub fn cause(&self) -> Option<&str> {
        match self {
            Self::Up => None,
            Self::Sick { cause }
            | Self::Draining { cause }
            | Self::Refused { cause }
            | Self::Silent { cause } => Some(cause),
        }
    }
}

/// The number of probes for a change of class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Good probes in a row until up.
    pub rise: u32,
    /// Bad probes in a row until sick.
    pub fall: u32,
    /// Time between probes, which turns a number of probes into a time.
    pub interval: Duration,
}

#[derive(Debug, Clone)]
pub struct Health {
    class: Class,
    /// Good probes in a row.
    good: u32,
    /// Bad probes in a row.
    bad: u32,
    /// `rise` is multiplied by two to this power.
    distrust: u32,
    last_fall: Option<Instant>,
    /// When `distrust` last changed.
    distrust_since: Option<Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            class: Class::Unknown,
            good: 0,
            bad: 0,
            distrust: 0,
            last_fall: None,
            distrust_since: None,
        }
    }
}

impl Health {
    pub fn class(&self) -> Class {
        self.class
    }

    /// Applies one verdict. `eager`: no other server is up, so one good probe is enough. Returns
    /// the previous class if it changed.
    pub fn judge(
        &mut self,
        verdict: &Verdict,
        thresholds: Thresholds,
        eager: bool,
        now: Instant,
    ) -> Option<Class> {
        self.forget(now);
        let next = match verdict {
            Verdict::Up => {
                self.bad = 0;
                self.good = self.good.saturating_add(1);
                // A server that has never failed needs one good probe.
                let enough =
                    eager || self.class == Class::Unknown || self.good >= self.needed(thresholds);
                if enough { Class::Up } else { self.class }
            }
            Verdict::Sick { .. } => {
                self.good = 0;
                self.bad = self.bad.saturating_add(1);
                // A gone server that accepts TCP again is not gone: its new connections are alive.
                let enough = self.class == Class::Gone || self.bad >= thresholds.fall;
                if enough { Class::Sick } else { self.class }
            }
            Verdict::Draining { .. } => {
                self.good = 0;
                self.bad = self.bad.saturating_add(1);
                Class::Sick
            }
            Verdict::Refused { .. } | Verdict::Silent { .. } => {
                self.good = 0;
                self.bad = self.bad.saturating_add(1);
                Class::Gone
            }
        };
        if next == self.class {
            return None;
        }
        if self.class == Class::Up {
            self.fall(now);
        }
        Some(std::mem::replace(&mut self.class, next))
    }

    /// Number of good probes in a row that this server needs now.
    pub fn needed(&self, thresholds: Thresholds) -> u32 {
        let interval = thresholds.interval.max(Duration::from_millis(1));
        let most =
            u32::try_from(LONGEST_HOLD.as_millis() / interval.as_millis()).unwrap_or(u32::MAX);
        let wanted = thresholds
            .rise
            .saturating_mul(1u32.checked_shl(self.distrust).unwrap_or(u32::MAX));
        wanted.min(most.max(thresholds.rise)).max(1)
    }

    fn fall(&mut self, now: Instant) {
        if self
            .last_fall
            .is_some_and(|last| now.saturating_duration_since(last) <= FLAP_WINDOW)
        {
            self.distrust = (self.distrust + 1).min(16);
            self.distrust_since = Some(now);
        }
        self.last_fall = Some(now);
    }

    fn forget(&mut self, now: Instant) {
        while let Some(since) = self.distrust_since {
            let quiet_since = self.last_fall.map_or(since, |fall| fall.max(since));
            if self.distrust == 0 || now.saturating_duration_since(quiet_since) < QUIET {
                break;
            }
            self.distrust -= 1;
            self.distrust_since = (self.distrust > 0).then_some(quiet_since + QUIET);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds {
        rise: 2,
        fall: 2,
        interval: Duration::from_millis(500),
    };

    fn sick() -> Verdict {
        Verdict::Sick {
            cause: "no answer".to_owned(),
        }
    }

    fn silent() -> Verdict {
        Verdict::Silent {
            cause: "no SYN-ACK".to_owned(),
        }
    }

    fn draining() -> Verdict {
        Verdict::Draining {
            cause: "500".to_owned(),
        }
    }

    /// Applies verdicts at the interval and returns the classes.
    fn classes(health: &mut Health, start: Instant, verdicts: &[Verdict]) -> Vec<Class> {
        let step = |(n, verdict): (usize, &Verdict)| {
            let now = start + THRESHOLDS.interval * u32::try_from(n).unwrap();
            health.judge(verdict, THRESHOLDS, false, now);
            health.class()
        };
        verdicts.iter().enumerate().map(step).collect()
    }

    #[test]
    fn each_class_needs_its_own_evidence() {
        use Class::{Gone, Sick, Unknown, Up};
        let refused = Verdict::Refused {
            cause: "refused".to_owned(),
        };
        let table = [
            ("first good probe", vec![Verdict::Up], vec![Up]),
            (
                "one bad answer is none",
                vec![Verdict::Up, sick(), Verdict::Up, sick()],
                vec![Up, Up, Up, Up],
            ),
            (
                "two in a row",
                vec![Verdict::Up, sick(), sick()],
                vec![Up, Up, Sick],
            ),
            ("its own 500", vec![Verdict::Up, draining()], vec![Up, Sick]),
            ("refused", vec![Verdict::Up, refused], vec![Up, Gone]),
            ("silent", vec![Verdict::Up, silent()], vec![Up, Gone]),
            (
                "back after two",
                vec![Verdict::Up, silent(), Verdict::Up, Verdict::Up],
                vec![Up, Gone, Gone, Up],
            ),
            (
                "gone, then half back",
                vec![silent(), sick()],
                vec![Gone, Sick],
            ),
            ("not yet judged", vec![sick()], vec![Unknown]),
        ];
        for (name, verdicts, expected) in table {
            assert_eq!(
                classes(&mut Health::default(), Instant::now(), &verdicts),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn flapping_doubles_the_rise_time_up_to_30_s() {
        let mut now = Instant::now();
        let mut health = Health::default();
        let mut needed = Vec::new();
        health.judge(&Verdict::Up, THRESHOLDS, false, now);
        for _ in 0..8 {
            now += Duration::from_secs(1);
            health.judge(&silent(), THRESHOLDS, false, now);
            needed.push(health.needed(THRESHOLDS));
            health.judge(&Verdict::Up, THRESHOLDS, true, now);
        }
        assert_eq!(needed, [2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn distrust_is_forgotten_in_quiet_minutes() {
        let mut now = Instant::now();
        let mut health = Health::default();
        health.judge(&Verdict::Up, THRESHOLDS, false, now);
        for _ in 0..3 {
            now += Duration::from_secs(1);
            health.judge(&silent(), THRESHOLDS, false, now);
            health.judge(&Verdict::Up, THRESHOLDS, true, now);
        }
        let mut needed = vec![health.needed(THRESHOLDS)];
        for _ in 0..3 {
            now += QUIET;
            health.judge(&Verdict::Up, THRESHOLDS, false, now);
            needed.push(health.needed(THRESHOLDS));
        }
        assert_eq!(needed, [8, 4, 2, 2]);
    }

    #[test]
    fn the_only_one_that_answers_is_up_at_once() {
        let now = Instant::now();
        let mut health = Health::default();
        health.judge(&silent(), THRESHOLDS, false, now);
        assert_eq!(
            health.judge(&Verdict::Up, THRESHOLDS, true, now),
            Some(Class::Gone)
        );
        assert_eq!(health.class(), Class::Up);
    }
}
