//! One question to one server, on a new connection or on one already there.
//!
//! Tells apart what a new connection saw: nobody listens, nobody is there, somebody answers but wrongly. When to
//! ask, and which of two answers counts, is `watch`.

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

/// Where an apiserver says whether it wants traffic, from the first moment of a shutdown on. `/healthz` stays green
/// through it, and turns red for other reasons.
pub const READYZ: &str = "/readyz";

/// A connection is asked for this often before nobody is said to be there: with one packet in a hundred lost, one
/// unanswered SYN is no evidence. Each comes from another port, and so perhaps takes another path.
const SYNS: usize = 3;
const SYN_SPACING: Duration = Duration::from_millis(150);

/// More of an answer than this is not waited for.
const LONGEST_ANSWER: usize = 64 * 1024;

/// What to ask, of whichever server.
#[derive(Debug, Clone)]
pub struct HealthRequest {
    /// `None`: plain HTTP.
    pub tls: Option<Arc<Tls>>,
    pub method: Method,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    /// Statuses from 400 on that are as good as 200.
    pub accepted: Vec<u16>,
}

impl HealthRequest {
    /// What a status says of the server.
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

/// A connection that has answered and is kept: its end is the first sign of a dying server.
#[derive(Debug)]
pub struct PersistentConn {
    sender: SendRequest<Full<Bytes>>,
    /// Ends when the connection does.
    pub ended: JoinHandle<()>,
    pub opened: Instant,
}

impl Drop for PersistentConn {
    fn drop(&mut self) {
        self.ended.abort();
    }
}

impl PersistentConn {
    /// Asks once. An error means the connection is of no more use.
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
                return Err(format!("an answer longer than {LONGEST_ANSWER} bytes"));
            }
        }
        Ok(response.status())
    }
}

/// What a new connection found.
#[derive(Debug)]
pub struct NewConnResult {
    /// The server's answer, or what is to be thought of one that gave none.
    pub answer: Result<StatusCode, Verdict>,
    /// The connection, if it is worth keeping.
    pub persistent: Option<PersistentConn>,
    /// There was no answer in time, which is less than a wrong one.
    pub is_late: bool,
}

/// Asks on a new connection, and knows by `deadline`, or when a server far away had as much time as it needs, but by
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
    // From here on somebody is there.
    let deadline = as_far_away(began, Instant::now(), deadline).min(latest);
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
                cause: "connected, but no answer in time".to_owned(),
            },
            deadline,
        ),
    }
}

/// TLS and the question take two or three times to and fro after the one that connected, and packets may be lost.
fn as_far_away(began: Instant, connected: Instant, deadline: Instant) -> Instant {
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
            // Small requests, each to be answered at once.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => Err(unconnected(&error)),
        Err(_) => Err(Verdict::Silent {
            cause: "no answer to a connection".to_owned(),
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
        // Unreachable, no address to come from, forbidden: as likely our own trouble as the server's.
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
        // Why it ended does not matter: a new connection will tell.
        let _ = connection.await;
    });
    Ok(PersistentConn {
        sender,
        ended,
        opened: Instant::now(),
    })
}

/// An error with its causes, which is where hyper and rustls say what happened.
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
        assert_eq!(as_far_away(began, after(1), deadline), deadline);
        assert_eq!(as_far_away(began, after(80), deadline), deadline);
        assert_eq!(as_far_away(began, after(200), deadline), after(1200));
    }
}
