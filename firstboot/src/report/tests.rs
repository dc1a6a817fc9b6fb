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
    reporter.wait_finished();
    assert_eq!(reporter.status.waiting, None);
}

#[test]
fn ready_machine_still_shows_what_does_not_work() {
    let dir = tempfile::tempdir().unwrap();
    let mut reporter = Reporter::silent(&Root::new(dir.path()));
    reporter.degraded("starting `ssh.service`: the job ended with `failed`");
    reporter.ready(1);
    assert_eq!(reporter.status.phase, Phase::Ready);
    assert_eq!(
        reporter.status.reasons,
        ["starting `ssh.service`: the job ended with `failed`"]
    );
}
