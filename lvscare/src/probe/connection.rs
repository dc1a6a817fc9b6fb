//! One health request to one server, on a new or a persistent connection.
//!
//! A new connection distinguishes a refused port, an unreachable host and a wrong response.
//! `checker` decides when to probe and which of two responses counts.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;

use crate::pool::health::Verdict;
use crate::tls::Tls;

/// The readiness endpoint of an apiserver. It fails as soon as a shutdown begins; `/healthz` stays
/// green then, and fails for other reasons.
pub const READYZ: &str = "/readyz";

/// Number of SYNs before a server counts as silent: with 1 % packet loss, one unanswered SYN is no
/// evidence. Each uses another source port, and so possibly another path.
const SYNS: usize = 3;
const SYN_SPACING: Duration = Duration::from_millis(150);

/// Maximum size of a response body.
const LONGEST_ANSWER: usize = 64 * 1024;

/// The health request, the same for every server.
#[derive(Debug, Clone)]
pub struct HealthRequest {
    /// `None`: plain HTTP.
    pub tls: Option<Arc<Tls>>,
    pub method: Method,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    /// Statuses from 400 on that count as healthy.
    pub accepted: Vec<u16>,
}

impl HealthRequest {
    /// The verdict for an HTTP status.
    pub fn judge(&self, status: StatusCode, path: &str) -> Verdict {
        let code = status.as_u16();
        if code < 400 || self.accepted.contains(&code) {
            return Verdict::Up;
        }
        let cause = format!("status {code}");
        if status.is_server_error() && path == READYZ {
            Verdict::Draining { cause }
        } else {
            Verdict::Sick { cause }
        }
    }

    fn request(
        &self,
        address: SocketAddr,
        path: &str,
    ) -> hyper::http::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(&self.method)
            .uri(path)
            .header(HOST, address.to_string())
            .header(USER_AGENT, concat!("lvscare/", env!("CARGO_PKG_VERSION")));
        if !self.body.is_empty() {
            request = request.header(CONTENT_LENGTH, self.body.len());
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(self.body.clone()))
    }
}

/// A connection kept open after a response: its close is the first sign of a dying server.
#[derive(Debug)]
pub struct PersistentConn {
    sender: SendRequest<Full<Bytes>>,
    /// Finishes when the connection closes.
    pub ended: JoinHandle<()>,
    pub opened: Instant,
}

impl Drop for PersistentConn {
    fn drop(&mut self) {
        self.ended.abort();
    }
}

impl PersistentConn {
    /// Sends one request. After an error the connection is unusable.
    pub async fn ask(
        &mut self,
        address: SocketAddr,
        path: &str,
        health_request: &HealthRequest,
    ) -> Result<StatusCode, String> {
        let request = health_request
            .request(address, path)
            .map_err(|error| error.to_string())?;
        let mut response = self
            .sender
            .send_request(request)
            .await
            .map_err(|error| describe(&error))?;
        let mut length = 0;
        while let Some(frame) = response.frame().await {
            let frame = frame.map_err(|error| describe(&error))?;
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > LONGEST_ANSWER {
                return Err(format!("response longer than {LONGEST_ANSWER} bytes"));
            }
        }
        Ok(response.status())
    }
}

/// The result of a probe on a new connection.
#[derive(Debug)]
pub struct NewConnResult {
    /// The status, or the verdict if there was no response.
    pub answer: Result<StatusCode, Verdict>,
    /// The connection, if it is reusable.
    pub persistent: Option<PersistentConn>,
    /// Whether the probe timed out, which is weaker evidence than a wrong response.
    pub is_late: bool,
}

/// Probes on a new connection until `deadline`, which a long round-trip time extends up to
/// `latest`.
pub async fn fresh(
    address: SocketAddr,
    path: &str,
    health_request: &HealthRequest,
    deadline: Instant,
    latest: Instant,
) -> NewConnResult {
    let failed = |verdict, deadline| NewConnResult {
        answer: Err(verdict),
        persistent: None,
        is_late: Instant::now() >= deadline,
    };
    let began = Instant::now();
    let stream = match connect(address, deadline).await {
        Ok(stream) => stream,
        Err(verdict) => return failed(verdict, deadline),
    };
    // The host accepted the connection.
    let deadline = extended_deadline(began, Instant::now(), deadline).min(latest);
    let asked = async {
        let mut persistent = open(address, stream, health_request).await?;
        let status = persistent.ask(address, path, health_request).await?;
        Ok((persistent, status))
    };
    match timeout_at(deadline, asked).await {
        Ok(Ok((persistent, status))) => {
            let reusable = !persistent.ended.is_finished();
            NewConnResult {
                answer: Ok(status),
                persistent: reusable.then_some(persistent),
                is_late: false,
            }
        }
        Ok(Err(cause)) => failed(Verdict::Sick { cause }, deadline),
        Err(_) => failed(
            Verdict::Sick {
                cause: "connected, but the response timed out".to_owned(),
            },
            deadline,
        ),
    }
}

/// TLS and the request take two or three more round trips, and packets may be lost.
fn extended_deadline(began: Instant, connected: Instant, deadline: Instant) -> Instant {
    deadline.max(connected + 5 * (connected - began))
}

async fn connect(address: SocketAddr, deadline: Instant) -> Result<TcpStream, Verdict> {
    let mut attempts = FuturesUnordered::from_iter([TcpStream::connect(address)]);
    let mut sent = 1;
    let racing = async {
        loop {
            tokio::select! {
                Some(attempt) = attempts.next() => return attempt,
                () = sleep(SYN_SPACING), if sent < SYNS => {
                    sent += 1;
                    attempts.push(TcpStream::connect(address));
                }
            }
        }
    };
    match timeout_at(deadline, racing).await {
        Ok(Ok(stream)) => {
            // Small requests must not be delayed.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => Err(unconnected(&error)),
        Err(_) => Err(Verdict::Silent {
            cause: "connection timed out".to_owned(),
        }),
    }
}

fn unconnected(error: &io::Error) -> Verdict {
    match error.kind() {
        ErrorKind::ConnectionRefused => Verdict::Refused {
            cause: "connection refused".to_owned(),
        },
        ErrorKind::ConnectionReset => Verdict::Refused {
            cause: "connection reset".to_owned(),
        },
        // Unreachable, no source address, forbidden: as likely a local fault as one of the server.
        _ => Verdict::Silent {
            cause: error.to_string(),
        },
    }
}

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

async fn open(
    address: SocketAddr,
    stream: TcpStream,
    health_request: &HealthRequest,
) -> Result<PersistentConn, String> {
    let stream: Pin<Box<dyn Stream>> = match &health_request.tls {
        None => Box::pin(stream),
        Some(tls) => {
            let config = tls.config().map_err(|error| format!("{error:#}"))?;
            let name = ServerName::IpAddress(address.ip().into());
            let stream = TlsConnector::from(config).connect(name, stream).await;
            Box::pin(stream.map_err(|error| format!("TLS: {}", describe(&error)))?)
        }
    };
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|error| describe(&error))?;
    let ended = tokio::spawn(async move {
        // The reason does not matter: a new connection shows the state of the server.
        let _ = connection.await;
    });
    Ok(PersistentConn {
        sender,
        ended,
        opened: Instant::now(),
    })
}

/// An error with its causes, where hyper and rustls put the details.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_timeout_adapts_to_round_trip_time() {
        let began = Instant::now();
        let after = |milliseconds| began + Duration::from_millis(milliseconds);
        let deadline = after(500);
        assert_eq!(extended_deadline(began, after(1), deadline), deadline);
        assert_eq!(extended_deadline(began, after(80), deadline), deadline);
        assert_eq!(extended_deadline(began, after(200), deadline), after(1200));
    }
}
