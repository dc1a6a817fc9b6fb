//! Serves `/livez`, `/metrics` and `/status`; fetches `/status` for the sub-command `status`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use crate::status::Status;

/// The main loop runs every 500 ms; without a round for this long it is stuck.
const STUCK: Duration = Duration::from_secs(10);

/// The largest answer of a daemon: a hundred servers have some 100 KiB.
const LONGEST: usize = 16 << 20;

/// The request timeout of a client.
const PATIENCE: Duration = Duration::from_secs(5);

/// The last status of the main loop with its time.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Mutex<(Instant, Status)>>);

impl Default for Shared {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((Instant::now(), Status::default()))))
    }
}

impl Shared {
    pub fn set(&self, status: Status) {
        *self.lock() = (Instant::now(), status);
    }

    fn lock(&self) -> MutexGuard<'_, (Instant, Status)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until the runtime ends.
pub async fn serve(listener: TcpListener, shared: Shared) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors: wait until some are closed.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                std::future::ready(Ok::<_, Infallible>(answer(&request, &shared)))
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            server
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(8192);
            // Errors of a client do not affect the daemon.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let guard = shared.lock();
    let (at, status) = &*guard;
    let (code, kind, body) = match request.uri().path() {
        "/livez" if at.elapsed() < STUCK => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        "/livez" => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "text/plain",
            "the main loop is stuck\n".to_owned(),
        ),
        "/metrics" => (
            StatusCode::OK,
            "text/plain; version=0.0.4",
            status.metrics(),
        ),
        "/status" => (
            StatusCode::OK,
            "application/json",
            serde_json::to_string(status).unwrap_or_default(),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "there are /livez, /metrics and /status\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

/// Fetches the status of the daemon listening on `address`.
pub async fn fetch(address: SocketAddr) -> anyhow::Result<Status> {
    let asked = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get("/status")
            .header(HOST, address.to_string())
            .body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?.into_body();
        // Another program may listen there.
        let body = Limited::new(answer, LONGEST).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?;
        anyhow::Ok(serde_json::from_slice(&body.to_bytes())?)
    };
    let answer = tokio::time::timeout(PATIENCE, asked)
        .await
        .context("no answer in time");
    answer
        .flatten()
        .with_context(|| format!("querying the daemon on `{address}`"))
}
