//! A Prometheus histogram of durations.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// Bounds in seconds. A healthy nearby apiserver responds in 1 to 5 ms; probes time out at 0.75 s.
const BOUNDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Not cumulative.
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    pub fn add(&mut self, seconds: f64) {
        if let Some(at) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[at] += 1;
        }
        self.count += 1;
        self.sum += seconds;
    }

    /// Samples of the metric `name` with `label` (`rs="..."`).
    pub fn write(&self, text: &mut String, name: &str, label: &str) {
        let mut below = 0;
        for (bound, bucket) in BOUNDS.iter().zip(self.buckets) {
            below += bucket;
            let _ = writeln!(text, "{name}_bucket{{{label},le=\"{bound}\"}} {below}");
        }
        let (count, sum) = (self.count, self.sum);
        let _ = writeln!(text, "{name}_bucket{{{label},le=\"+Inf\"}} {count}");
        let _ = writeln!(
            text,
            "{name}_sum{{{label}}} {sum}\n{name}_count{{{label}}} {count}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_all_that_took_no_longer() {
        let mut histogram = Histogram::default();
        for seconds in [0.0005, 0.001, 0.003, 7.0] {
            histogram.add(seconds);
        }
        let mut text = String::new();
        histogram.write(&mut text, "x", "rs=\"a\"");
        for line in [
            "x_bucket{rs=\"a\",le=\"0.001\"} 2",
            "x_bucket{rs=\"a\",le=\"0.0025\"} 2",
            "x_bucket{rs=\"a\",le=\"0.005\"} 3",
            "x_bucket{rs=\"a\",le=\"1\"} 3",
            "x_bucket{rs=\"a\",le=\"+Inf\"} 4",
            "x_count{rs=\"a\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
