//! Discovery from an apiserver in this process: TLS with client certificates, list, watch and
//! failures.

#[allow(dead_code, reason = "`probe` uses the rest")]
mod apiserver;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver::Authority;
use futures_util::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use lvscare::discovery::{Discovery, Intervals};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

const PACE: Intervals = Intervals {
    poll: Duration::from_millis(50),
    retry: Duration::from_millis(10),
    answer_timeout: Duration::from_secs(10),
};

/// One response: text that path and query contain, status, and chunks of the body. A body whose
/// last chunk is empty stays open.
type Answer = (&'static str, u16, Vec<String>);

struct Cluster {
    authority: Authority,
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    lists: mpsc::Receiver<Vec<SocketAddr>>,
}

impl Cluster {
    /// An apiserver that requires a client certificate and gives these responses in order, the last
    /// one repeatedly, and a discovery that uses it.
    async fn start(answers: Vec<Answer>) -> Self {
        let authority = Authority::new();
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(authority.server_with_client_certificates("api.example"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(serve(
            listener,
            acceptor,
            Arc::new(Mutex::new(answers.into())),
            Arc::clone(&asked),
        ));
        let (sender, lists) = mpsc::channel(4);
        let kubeconfig = folder.path().join("kubelet.conf");
        let discovery = Discovery {
            service: address,
            kubeconfig,
            intervals: PACE,
        };
        tokio::spawn(discovery.run(sender));
        let cluster = Self {
            authority,
            folder,
            asked,
            lists,
        };
        cluster.write_kubeconfig(&cluster.authority);
        cluster
    }

    /// As kubeadm writes it, with the certificate and key in one file beside it, as kubelet keeps
    /// them.
    fn write_kubeconfig(&self, issuer: &Authority) {
        let pem = self.folder.path().join("current.pem");
        std::fs::write(pem, issuer.client("system:node:worker-1", "system:nodes")).unwrap();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster:\n    \
             certificate-authority: {}\n    server: https://api.example:6443\ncontexts:\n- name: c\n  context: \
             {{cluster: k, user: u}}\nusers:\n- name: u\n  user:\n    client-certificate: current.pem\n    \
             client-key: current.pem\n",
            self.authority.file().display()
        );
        let path: PathBuf = self.folder.path().join("kubelet.conf");
        // Atomically, because it is being read.
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    async fn next(&mut self) -> Vec<SocketAddr> {
        tokio::time::timeout(Duration::from_secs(20), self.lists.recv())
            .await
            .expect("no list came")
            .expect("the discovery ended")
    }

    fn requests(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, answers, asked) =
            (acceptor.clone(), Arc::clone(&answers), Arc::clone(&asked));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(|request: Request<Incoming>| {
                let path = request.uri().to_string();
                let mut answers = answers.lock().unwrap();
                let answer = if answers.len() > 1 {
                    answers.pop_front().unwrap()
                } else {
                    answers[0].clone()
                };
                let response = respond(&path, answer);
                asked.lock().unwrap().push(path);
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn respond(path: &str, (expected, status, pieces): Answer) -> Response<BoxBody<Bytes, Infallible>> {
    // An unexpected request gets an unusable response.
    let status = if path.contains(expected) { status } else { 418 };
    let open = pieces.last().is_some_and(String::is_empty);
    let body = if pieces.len() == 1 {
        Full::new(Bytes::from(pieces.concat())).boxed()
    } else {
        let pieces = futures_util::stream::iter(pieces)
            .filter(|piece| std::future::ready(!piece.is_empty()))
            .then(|piece| async {
                // Each in its own packet.
                tokio::task::yield_now().await;
                Ok(Frame::data(Bytes::from(piece)))
            });
        if open {
            BodyExt::boxed(StreamBody::new(
                Box::pin(pieces.chain(futures_util::stream::pending()))
                    as std::pin::Pin<
                        Box<
                            dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>>
                                + Send
                                + Sync,
                        >,
                    >,
            ))
        } else {
            BodyExt::boxed(StreamBody::new(Box::pin(pieces)
                as std::pin::Pin<
                    Box<
                        dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>>
                            + Send
                            + Sync,
                    >,
                >))
        }
    };
    Response::builder().status(status).body(body).unwrap()
}

fn servers<const N: usize>(numbers: [u8; N]) -> Vec<SocketAddr> {
    numbers
        .map(|n| SocketAddr::from(([10, 0, 0, n], 6443)))
        .to_vec()
}

fn slice<const N: usize>(numbers: [u8; N]) -> String {
    let endpoints = numbers.map(|n| format!(r#"{{"addresses":["10.0.0.{n}"]}}"#));
    format!(
        r#"{{"metadata":{{"name":"kubernetes","resourceVersion":"8"}},"endpoints":[{}],"ports":[{{"name":"https","port":6443}}]}}"#,
        endpoints.join(",")
    )
}

fn list<const N: usize>(numbers: [u8; N]) -> Vec<String> {
    vec![format!(
        r#"{{"metadata":{{"resourceVersion":"7"}},"items":[{}]}}"#,
        slice(numbers)
    )]
}

fn event(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

const LIST: &str = "/v1/namespaces/default/endpointslices?fieldSelector=metadata.name%3Dkubernetes";
const BETA: &str =
    "/v1beta1/namespaces/default/endpointslices?fieldSelector=metadata.name%3Dkubernetes";
const WATCH: &str = "&watch=1&allowWatchBookmarks=true";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";

#[tokio::test]
async fn list_is_followed_by_each_change_for_any_framing() {
    let stream = event("BOOKMARK", &slice([]))
        + &event("MODIFIED", &slice([1, 2]))
        + &event("MODIFIED", &slice([2, 3]));
    let mut pieces: Vec<_> = stream
        .as_bytes()
        .chunks(7)
        .map(|piece| String::from_utf8(piece.to_vec()).unwrap())
        .collect();
    pieces.push(String::new());
    let mut cluster = Cluster::start(vec![(LIST, 200, list([1])), (WATCH, 200, pieces)]).await;
    assert_eq!(cluster.next().await, servers([1]));
    assert_eq!(cluster.next().await, servers([1, 2]));
    assert_eq!(cluster.next().await, servers([2, 3]));
    let asked = cluster.requests();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].ends_with("&resourceVersion=7"), "{asked:?}");
}

#[tokio::test]
async fn expired_version_in_status_or_event_lists_again() {
    let expired = event("ERROR", r#"{"kind":"Status","code":410}"#);
    let mut cluster = Cluster::start(vec![
        (LIST, 200, list([1])),
        (WATCH, 410, vec!["{}".to_owned()]),
        (LIST, 200, list([2])),
        (WATCH, 200, vec![expired, String::new()]),
        (LIST, 200, list([3])),
        (WATCH, 200, vec![event("ADDED", &slice([4])), String::new()]),
    ])
    .await;
    for n in 1..=4 {
        assert_eq!(cluster.next().await, servers([n]));
    }
}

#[tokio::test]
async fn ended_watch_is_restarted() {
    let mut cluster = Cluster::start(vec![
        (LIST, 200, list([1])),
        (
            WATCH,
            200,
            vec![event("MODIFIED", &slice([2])), "{\"type\":".to_owned()],
        ),
        (LIST, 200, list([3])),
        (
            WATCH,
            200,
            vec![event("MODIFIED", &slice([4])), String::new()],
        ),
    ])
    .await;
    for n in 1..=4 {
        assert_eq!(cluster.next().await, servers([n]));
    }
}

#[tokio::test]
async fn before_1_21_the_beta_is_requested() {
    let mut cluster = Cluster::start(vec![
        (LIST, 404, vec!["404 page not found".to_owned()]),
        (BETA, 200, list([1])),
        (
            "/v1beta1/namespaces/default/endpointslices?",
            200,
            vec![event("ADDED", &slice([2])), String::new()],
        ),
    ])
    .await;
    assert_eq!(cluster.next().await, servers([1]));
    assert_eq!(cluster.next().await, servers([2]));
}

#[tokio::test]
async fn list_is_polled_without_watch_permission() {
    let mut cluster = Cluster::start(vec![
        (LIST, 200, list([1])),
        (WATCH, 403, vec!["{}".to_owned()]),
        (LIST, 200, list([2])),
        (WATCH, 403, vec!["{}".to_owned()]),
        (LIST, 200, list([3])),
    ])
    .await;
    for n in 1..=3 {
        assert_eq!(cluster.next().await, servers([n]));
    }
}

#[tokio::test]
async fn endpoints_are_polled_without_slice_permission() {
    let body =
        r#"{"subsets":[{"addresses":[{"ip":"10.0.0.5"}],"ports":[{"name":"https","port":6443}]}]}"#;
    let mut cluster = Cluster::start(vec![
        (LIST, 403, vec!["{}".to_owned()]),
        (ENDPOINTS, 200, vec![body.to_owned()]),
        (LIST, 403, vec!["{}".to_owned()]),
        (ENDPOINTS, 200, vec![body.to_owned()]),
        (LIST, 200, list([1])),
    ])
    .await;
    assert_eq!(cluster.next().await, servers([5]));
    assert_eq!(cluster.next().await, servers([5]));
    assert_eq!(
        cluster.next().await,
        servers([1]),
        "a role applied later is used"
    );
}

#[tokio::test]
async fn no_list_is_sent_until_permission_is_granted() {
    let refused = || vec!["{}".to_owned()];
    let mut cluster = Cluster::start(vec![
        (LIST, 403, refused()),
        (ENDPOINTS, 403, refused()),
        (LIST, 401, refused()),
        (LIST, 500, refused()),
        (LIST, 200, vec!["not json".to_owned()]),
        (LIST, 200, list([1])),
    ])
    .await;
    assert_eq!(cluster.next().await, servers([1]));
}

#[tokio::test]
async fn rotated_certificate_is_used_for_the_next_connection() {
    let mut cluster = Cluster::start(vec![
        (LIST, 200, list([1])),
        (WATCH, 403, vec!["{}".to_owned()]),
        (LIST, 200, list([2])),
    ])
    .await;
    // Of another CA: the server ends the handshake.
    cluster.write_kubeconfig(&Authority::new());
    tokio::time::sleep(Duration::from_millis(500)).await;
    while cluster.lists.try_recv().is_ok() {}
    let before = cluster.requests().len();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(cluster.requests().len(), before, "it opens nothing");
    cluster.write_kubeconfig(&cluster.authority);
    while cluster.requests().len() <= before {
        cluster.next().await;
    }
}
