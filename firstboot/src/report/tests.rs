use super::*;

fn status(reporter: &Reporter) -> (&str, &str, u64, u64) {
    let waiting = reporter.status.waiting.as_ref().unwrap();
    let (tries, since) = (waiting.tries, waiting.since_uptime);
    (&waiting.endpoint, &waiting.answer, tries, since)
}

#[test]
fn each_wait_has_its_own_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut reporter = Reporter::silent(&Root::new(dir.path()));
    let wait = |since_uptime, tries| Wait {
        since: 0,
        since_uptime,
        tries,
    };
    reporter.waiting("m0", "refused", &wait(5, 1));
    reporter.waiting("m0", "503", &wait(5, 2));
    assert_eq!(status(&reporter), ("m0", "503", 2, 5));
    reporter.waiting("m1", "refused", &wait(9, 1));
    assert_eq!(status(&reporter), ("m1", "refused", 1, 9));
    reporter.waited();
    assert_eq!(reporter.status.waiting, None);
}

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
