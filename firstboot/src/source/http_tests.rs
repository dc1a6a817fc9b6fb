//! Servers that are gone, slow, endless or lead elsewhere.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::source::test_server::{Reply, Server};

fn client(total: Duration, attempt: Duration) -> Http {
    Http::with_limits(&Root::new("/nowhere"), total, attempt, 1 << 20).unwrap()
}

fn patient() -> Http {
    client(Duration::from_secs(60), Duration::from_secs(20))
}

#[test]
fn missing_file_is_a_final_answer() {
    for status in [404, 410] {
        let server = Server::start(move |_, _| Reply::Status(status));
        assert!(
            patient()
                .get(&format!("{}/a", server.base))
                .unwrap()
                .is_none()
        );
        assert_eq!(server.asked(), ["GET /a"]);
    }
}

#[test]
fn busy_server_is_asked_again() {
    let count = AtomicU32::new(0);
    let server = Server::start(move |_, _| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Status(503),
        1 => Reply::Status(429),
        _ => Reply::Body(b"text".to_vec()),
    });
    let body = patient().get(&format!("{}/a", server.base)).unwrap();
    assert_eq!(body.unwrap(), b"text");
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn refusal_is_final_and_shows_no_secret() {
    for status in [400, 401, 403] {
        let server = Server::start(move |_, _| Reply::Status(status));
        let url = format!(
            "{}/a?token=hunter2",
            server.base.replace("//", "//user:hunter2@")
        );
        let error = format!("{:#}", patient().get(&url).unwrap_err());
        assert!(
            error.ends_with(&format!("/a: the server answers {status}")),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
        assert_eq!(server.asked().len(), 1);
    }
}

#[test]
fn silent_endless_and_absent_servers_are_cut() {
    let short = Duration::from_millis(300);
    let silent = Server::start(|_, _| Reply::Silence);
    let error = client(short, short).get(&silent.base).unwrap_err();
    assert!(error.is::<Unreachable>(), "{error:#}");
    let endless = Server::start(|_, _| Reply::Endless);
    let error = patient().get(&endless.base).unwrap_err();
    assert!(
        format!("{error:#}").contains("is larger than 1 MiB"),
        "{error:#}"
    );
    // A port without a listener: it is dropped.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", free.local_addr().unwrap());
    drop(free);
    let error = client(short, short).get(&url).unwrap_err();
    assert!(error.is::<Unreachable>(), "{error:#}");
}

#[test]
fn redirects_stay_with_the_host_or_lead_to_https() {
    let server = Server::start(|request, _| match request {
        "GET /a" => Reply::Redirect("/b".to_owned()),
        "GET /b" => Reply::Body(b"here".to_vec()),
        _ => Reply::Redirect("/loop".to_owned()),
    });
    let body = patient().get(&format!("{}/a", server.base)).unwrap();
    assert_eq!(body.unwrap(), b"here");
    let error = patient().get(&format!("{}/loop", server.base)).unwrap_err();
    assert!(format!("{error:#}").contains("more than 5 redirects"));
    for (from, to, allowed) in [
        ("http://a/x/y", "z", Some("http://a/x/z")),
        ("http://a/x", "http://a/z", Some("http://a/z")),
        ("http://a/x", "https://b/z", Some("https://b/z")),
        ("https://a/x", "https://b/z", Some("https://b/z")),
        ("https://a/x", "//b/z", Some("https://b/z")),
        ("http://a/x", "http://b/z", None),
        ("https://a/x", "http://a/x", None),
        ("http://a/x", "file:///etc/shadow", None),
        ("http://a/x", "ftp://a/x", None),
    ] {
        assert_eq!(
            redirected(from, to).ok().as_deref(),
            allowed,
            "{from} to {to}"
        );
    }
}

#[test]
fn clock_of_the_last_server_counts() {
    let http = Http::new(&Root::new("/nowhere"), Duration::from_secs(20)).unwrap();
    http.set_date("Sun, 06 Nov 1994 08:49:37 GMT");
    let late = http.now() - 784_111_777;
    assert!((0..5).contains(&late), "{late}");
    for useless in ["Sun, 06 Nov 1994 08:49 GMT", "yesterday", ""] {
        http.set_date(useless);
    }
    let late = http.now() - 784_111_777;
    assert!((0..5).contains(&late), "{late}");
}
