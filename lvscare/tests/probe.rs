//! Verdicts of the health checker for healthy and faulty apiservers, over sockets and TLS on
//! loopback.

#[allow(dead_code, reason = "`discover` uses the rest")]
mod apiserver;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{Apiserver, Authority, Behaviour};
use lvscare::pool::health::Verdict;
use lvscare::probe::checker::{HealthChecker, Timing};
use lvscare::probe::connection::{HealthRequest, READYZ};
use lvscare::probe::ticker::Ticker;
use lvscare::tls::{Tls, Trust};
use tokio::net::{TcpSocket, TcpStream};

const TIMING: Timing = Timing {
    interval: Duration::from_millis(50),
    timeout: Duration::from_secs(10),
    fresh: Duration::from_millis(500),
    renew: Duration::from_secs(3600),
    grace: Duration::ZERO,
};

fn health_request(trust: Trust) -> Arc<HealthRequest> {
    Arc::new(HealthRequest {
        tls: Some(Arc::new(Tls::new(trust))),
        method: hyper::Method::GET,
        headers: Vec::new(),
        body: hyper::body::Bytes::new(),
        accepted: vec![401, 403, 404],
    })
}

fn checker(address: SocketAddr, authority: &Authority) -> HealthChecker {
    HealthChecker::new(
        address,
        READYZ,
        health_request(Trust::Authority(authority.file().to_owned())),
        TIMING,
    )
}

async fn verdict_of(behaviour: Behaviour) -> Verdict {
    let authority = Authority::new();
    let server = Apiserver::start(&authority, behaviour).await;
    checker(server.address, &authority).round().await.verdict
}

#[tokio::test]
async fn each_status_has_its_verdict() {
    for status in [200, 302, 401, 403, 404] {
        assert_eq!(
            verdict_of(Behaviour::Status(status)).await,
            Verdict::Up,
            "{status}"
        );
    }
    for status in [500, 503] {
        let cause = format!("status {status}");
        assert_eq!(
            verdict_of(Behaviour::Status(status)).await,
            Verdict::Draining { cause }
        );
    }
    for status in [400, 429] {
        let cause = format!("status {status}");
        assert_eq!(
            verdict_of(Behaviour::Status(status)).await,
            Verdict::Sick { cause }
        );
    }
}

#[tokio::test]
async fn only_readyz_500_drains_immediately() {
    let authority = Authority::new();
    let server = Apiserver::start(&authority, Behaviour::Status(500)).await;
    let trust = Trust::Authority(authority.file().to_owned());
    let mut checker = HealthChecker::new(server.address, "/healthz", health_request(trust), TIMING);
    let cause = "status 500".to_owned();
    assert_eq!(checker.round().await.verdict, Verdict::Sick { cause });
}

#[tokio::test]
async fn closed_port_is_refused() {
    let authority = Authority::new();
    let server = Apiserver::start(&authority, Behaviour::Status(200)).await;
    let address = server.address;
    server.stop().await;
    let verdict = checker(address, &authority).round().await.verdict;
    assert!(matches!(verdict, Verdict::Refused { .. }), "{verdict:?}");
}

#[tokio::test]
async fn unreachable_host_is_silent() {
    // A full backlog drops SYNs, like an unreachable host.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut fill = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        fill.push(stream);
    }
    let verdict = checker(address, &Authority::new()).round().await.verdict;
    assert_eq!(
        verdict,
        Verdict::Silent {
            cause: "connection timed out".to_owned()
        }
    );
}

#[tokio::test]
async fn server_without_response_is_sick() {
    let verdict = verdict_of(Behaviour::Mute).await;
    assert!(
        matches!(&verdict, Verdict::Sick { cause } if cause.contains("response timed out")),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn server_closing_the_connection_is_sick() {
    let verdict = verdict_of(Behaviour::HangUp).await;
    assert!(matches!(&verdict, Verdict::Sick { .. }), "{verdict:?}");
}

#[tokio::test]
async fn invalid_certificate_is_sick_with_a_cause() {
    let ours = Authority::new();
    for (name, server) in [
        // Both have the same name, as the CAs of two kubeadm clusters do.
        (
            "BadSignature",
            Apiserver::start(&Authority::new(), Behaviour::Status(200)).await,
        ),
        (
            "not valid for",
            Apiserver::start_as(&ours, Behaviour::Status(200), "192.0.2.1", false).await,
        ),
        (
            "expired",
            Apiserver::start_as(&ours, Behaviour::Status(200), "127.0.0.1", true).await,
        ),
    ] {
        let verdict = checker(server.address, &ours).round().await.verdict;
        assert!(
            matches!(&verdict, Verdict::Sick { cause } if cause.contains(name)),
            "{name}: {verdict:?}"
        );
        let mut anyone = HealthChecker::new(
            server.address,
            READYZ,
            health_request(Trust::Anyone),
            TIMING,
        );
        assert_eq!(anyone.round().await.verdict, Verdict::Up, "{name}");
    }
}

#[tokio::test]
async fn ca_file_created_later_is_read() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = Apiserver::start(&theirs, Behaviour::Status(200)).await;
    let mut checker = checker(server.address, &ours);
    assert!(matches!(
        checker.round().await.verdict,
        Verdict::Sick { .. }
    ));
    std::fs::remove_file(ours.file()).unwrap();
    let verdict = checker.round().await.verdict;
    assert!(
        matches!(&verdict, Verdict::Sick { cause } if cause.contains("reading the authorities")),
        "{verdict:?}"
    );
    std::fs::copy(theirs.file(), ours.file()).unwrap();
    assert_eq!(checker.round().await.verdict, Verdict::Up);
}

#[tokio::test]
async fn rounds_share_one_connection() {
    let authority = Authority::new();
    let server = Apiserver::start(&authority, Behaviour::Status(200)).await;
    let mut checker = checker(server.address, &authority);
    for _ in 0..5 {
        assert_eq!(checker.round().await.verdict, Verdict::Up);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn persistent_connection_is_renewed_after_its_age_limit() {
    let authority = Authority::new();
    let server = Apiserver::start(&authority, Behaviour::Status(200)).await;
    let timing = Timing {
        renew: Duration::from_millis(100),
        ..TIMING
    };
    let trust = Trust::Authority(authority.file().to_owned());
    let mut checker = HealthChecker::new(server.address, READYZ, health_request(trust), timing);
    assert_eq!(checker.round().await.verdict, Verdict::Up);
    tokio::time::sleep(2 * timing.renew).await;
    // As if the server's certificate had expired: only a new connection detects it.
    Authority::new().replace(&authority);
    let verdict = checker.round().await.verdict;
    assert!(matches!(verdict, Verdict::Sick { .. }), "{verdict:?}");
}

#[tokio::test]
async fn old_connection_counts_only_during_the_grace() {
    let authority = Authority::new();
    let server = Apiserver::start(&authority, Behaviour::Status(200)).await;
    let timing = Timing {
        renew: Duration::from_millis(100),
        grace: Duration::from_secs(3),
        ..TIMING
    };
    let trust = Trust::Authority(authority.file().to_owned());
    let mut checker = HealthChecker::new(server.address, READYZ, health_request(trust), timing);
    assert_eq!(checker.round().await.verdict, Verdict::Up);
    tokio::time::sleep(2 * timing.renew).await;

    server.mute_new_connections(true);
    for connections in [2, 3] {
        assert_eq!(checker.round().await.verdict, Verdict::Up);
        assert_eq!(server.connections(), connections, "tried again each round");
    }
    server.mute_new_connections(false);
    assert_eq!(checker.round().await.verdict, Verdict::Up);
    assert_eq!(checker.round().await.verdict, Verdict::Up);
    assert_eq!(server.connections(), 4, "the new one took its place");

    tokio::time::sleep(2 * timing.renew).await;
    server.mute_new_connections(true);
    tokio::time::sleep(timing.grace).await;
    let verdict = checker.round().await.verdict;
    assert!(
        matches!(&verdict, Verdict::Sick { cause } if cause.contains("response timed out")),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn late_response_is_retried_on_a_second_connection() {
    let authority = Authority::new();
    let server = Apiserver::start(&authority, Behaviour::Status(200)).await;
    let mut checker = checker(server.address, &authority);
    assert_eq!(checker.round().await.verdict, Verdict::Up);
    // The first connection stalls as if its path were cut; a new one works.
    server.stall_open_connections();
    assert_eq!(checker.round().await.verdict, Verdict::Up);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn closed_connection_is_reported_immediately() {
    let authority = Authority::new();
    let server = Apiserver::start(&authority, Behaviour::Status(200)).await;
    let timing = Timing {
        interval: Duration::from_secs(3600),
        ..TIMING
    };
    let trust = Trust::Authority(authority.file().to_owned());
    let checker = HealthChecker::new(server.address, READYZ, health_request(trust), timing);
    let (sender, mut reports) = tokio::sync::mpsc::channel(8);
    tokio::spawn(checker.run(Ticker::start(), sender));
    assert_eq!(reports.recv().await.unwrap().verdict, Verdict::Up);
    server.stop().await;
    let verdict = reports.recv().await.unwrap().verdict;
    assert!(matches!(verdict, Verdict::Refused { .. }), "{verdict:?}");
}

#[tokio::test]
async fn server_without_readyz_is_probed_by_healthz() {
    let authority = Authority::new();
    let server = Apiserver::start(&authority, Behaviour::OnlyHealthz).await;
    let mut checker = checker(server.address, &authority);
    for _ in 0..2 {
        assert_eq!(checker.round().await.verdict, Verdict::Up);
    }
    assert_eq!(server.paths(), ["/readyz", "/healthz"]);
}
