//! Statistics of benchmark rounds.

use std::time::Duration;

/// The number of rounds of a benchmark: `FIRSTLIGHT_ROUNDS`, else 3.
pub fn rounds() -> usize {
    let rounds = std::env::var("FIRSTLIGHT_ROUNDS").ok();
    rounds.and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// The median; zero if there are no times.
pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The ratio of two medians.
pub fn ratio(of: &[Duration], to: &[Duration]) -> String {
    if of.is_empty() || to.is_empty() {
        return "not measured".to_owned();
    }
    format!("{:.2}", median(of).as_secs_f64() / median(to).as_secs_f64())
}

/// `median (lowest-highest)`.
pub fn spread(times: &[Duration]) -> String {
    let (Some(least), Some(most)) = (times.iter().min(), times.iter().max()) else {
        return "not measured".to_owned();
    };
    let [median, least, most] = [median(times), *least, *most].map(|time| time.as_secs_f64());
    format!("{median:.1} s ({least:.1}-{most:.1})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_and_ratio_use_the_median() {
        let times = [3, 1, 2].map(Duration::from_secs);
        assert_eq!(spread(&times), "2.0 s (1.0-3.0)");
        assert_eq!(ratio(&times, &[Duration::from_secs(4)]), "0.50");
        assert_eq!(spread(&[]), "not measured");
        assert_eq!(ratio(&times, &[]), "not measured");
    }
}
