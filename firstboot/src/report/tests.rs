use super::*;

fn status(reporter: &Reporter) -> (&str, &str, u64, u64) {
    let waiting = reporter.status.waiting.as_ref().unwrap();
    let (tries, since) = (waiting.tries, waiting.since_uptime);
    (&waiting.endpoint, &waiting.answer, tries, since)
}

#[test]
fn each_wait_has_its_own_beginning_and_ends_when_answered() {
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
    let said = |at: u64, again: u64| Said {
        endpoint: "m0".into(),
        answer: "refused".into(),
        at: Instant::now().checked_sub(Duration::from_secs(at)).unwrap(),
        again: Duration::from_secs(again),
    };
    let ask = |said: Said, answer| next_repeat(Some(&said), "m0", answer).map(|d| d.as_secs());
    assert_eq!(next_repeat(None, "m0", "refused"), Some(FIRST_REPEAT));
    assert_eq!(ask(said(59, 60), "503"), Some(60));
    assert_eq!(ask(said(59, 60), "refused"), None);
    assert_eq!(ask(said(61, 60), "refused"), Some(120));
    assert_eq!(ask(said(3601, 3600), "refused"), Some(3600));
}
