//! Old, new and invalid command lines.

use super::*;

fn parse(line: &str) -> Cli {
    Cli::try_parse_from(line.split_ascii_whitespace())
        .unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn the_originals_command_lines_are_understood() {
    let pod = parse(
        "lvscare care --vs 10.103.97.2:6443 --health-path /healthz --health-schem https \
             --rs 10.0.0.1:6443 --rs 10.0.0.2:6443,10.0.0.3:6443 --interval 5 --mode link -i lvscare --masqueradebit 3",
    );
    assert_eq!(pod.command, Some(Command::Care));
    assert_eq!(pod.options.rs.len(), 3);
    assert_eq!(pod.options.interval, Some(Duration::from_secs(5)));
    assert_eq!(
        pod.options.ignored(),
        ["--mode", "--iface", "--masqueradebit"]
    );
    let once =
        parse("lvscare --vs 10.103.97.2:6443 --rs 10.0.0.1:6443 --run-once --health-status 401");
    assert!(once.options.run_once && once.command.is_none());
    let off = parse(
        "lvscare care --vs 10.103.97.2:6443 --run-once=false --health-insecure-skip-verify=true -C",
    );
    assert!(!off.options.run_once && off.options.health_insecure_skip_verify && off.options.clean);
}

#[test]
fn durations_of_both_kinds_are_read() {
    let table = [
        ("5", 5.0),
        ("500ms", 0.5),
        ("1m30s", 90.0),
        ("1.5s", 1.5),
        ("2h", 7200.0),
        ("0", 0.0),
    ];
    for (text, seconds) in table {
        assert_eq!(
            duration(text),
            Ok(Duration::from_secs_f64(seconds)),
            "{text}"
        );
    }
    for text in ["s", "5x", "1.2.3s", "-1s", "5s5", "99999999999999999999s"] {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn what_cannot_work_is_refused_with_its_reason() {
    let table = [
        ("lvscare --rs 10.0.0.1:6443", "--vs"),
        ("lvscare --vs 127.0.0.1:6443 --rs 10.0.0.1:6443", "loopback"),
        (
            "lvscare --vs 10.103.97.2:6443 --rs 10.0.0.1:6443 --ip fd00::1",
            "family",
        ),
    ];
    for (line, word) in table {
        let error = parse(line).options.settings("n0").unwrap_err().to_string();
        assert!(error.contains(word), "{line}: {error}");
    }
}

#[test]
fn missing_ca_is_an_error_unless_verification_is_off() {
    let there = tempfile::tempdir().unwrap();
    let missing = there.path().join("ca.crt");
    let line = format!(
        "lvscare --vs 10.9.9.9:1 --rs 10.0.0.1:1 --ca {}",
        missing.display()
    );
    let error = format!("{:#}", parse(&line).options.settings("n").unwrap_err());
    assert!(
        error.contains("--health-insecure-skip-verify") && error.contains("ca.crt"),
        "{error}"
    );
    std::fs::write(&missing, "no certificate").unwrap();
    assert!(parse(&line).options.settings("n").is_err());
    for more in ["--health-insecure-skip-verify", "--health-schem http"] {
        parse(&format!("{line} {more}"))
            .options
            .settings("n")
            .unwrap();
    }
}

#[test]
fn discovery_is_on_until_turned_off() {
    let line = "lvscare --vs 10.9.9.9:1 --rs 10.0.0.1:1 --health-schem http";
    let on = parse(line).options.settings("n").unwrap();
    assert!(on.discovery.is_some() && on.sources.cache.is_some());
    let off = parse(&format!("{line} --discover=off"))
        .options
        .settings("n")
        .unwrap();
    assert!(off.discovery.is_none() && off.sources.cache.is_none());
}
