//! Discovers apiservers: lists and watches `default/kubernetes` through the virtual server.
//!
//! Reports addresses only. Falls back according to the node's permissions: watch EndpointSlices,
//! list EndpointSlices every 30 s, read Endpoints every 30 s, nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc::Sender;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::probe::checker::fraction;

pub mod kubeconfig;
pub mod slice;

use kubeconfig::Access;
use slice::{Event, Lines};

/// The slice of the service `kubernetes` has its name. The field selector lets a role with
/// `resourceNames` allow a list (kubernetes.io, "Referring to resources"); before 1.21 there is
/// only the beta.
const SLICES: [&str; 2] = ["v1", "v1beta1"];
const SELECTOR: &str = "fieldSelector=metadata.name%3Dkubernetes";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";

const LONGEST: usize = 1024 * 1024;

/// Intervals and timeouts.
#[derive(Debug, Clone, Copy)]
pub struct Intervals {
    /// Interval between two lists without a watch.
    pub poll: Duration,
    /// Delay after a failure, and between two watches.
    pub retry: Duration,
    /// Timeout of a connection, and of a complete response other than a watch.
    pub answer_timeout: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(30),
            retry: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(10),
        }
    }
}

/// `timeoutSeconds` of a watch. Ending watches regularly rebalances them across recovered
/// apiservers and picks up a rotated certificate before the old one expires.
const WATCH: u64 = 300;

/// A watch without data for this long is dead: the server ends a live one sooner.
const SILENCE: Duration = Duration::from_secs(WATCH + 90);

#[derive(Debug, Clone)]
pub struct Discovery {
    pub service: SocketAddr,
    pub kubeconfig: PathBuf,
    pub intervals: Intervals,
}

/// How an attempt ended.
enum End {
    /// The watch ended normally: list again and start a new watch.
    Over,
    /// Listing works, watching does not.
    Unwatched,
}

impl Discovery {
    /// Sends each list until the receiver is dropped.
    pub async fn run(self, lists: Sender<Vec<SocketAddr>>) {
        let mut last_error: Option<String> = None;
        while !lists.is_closed() {
            let before = last_error.take();
            let pause = match self.attempt(&lists).await {
                Ok(End::Over) => self.intervals.retry,
                Ok(End::Unwatched) => self.intervals.poll,
                Err(error) => {
                    let text = format!("{error:#}");
                    if before.as_ref() != Some(&text) {
                        log::warn!("API discovery failed: {text}");
                    }
                    last_error = Some(text);
                    // Missing permissions rarely appear within seconds.
                    if error.is::<Forbidden>() {
                        self.intervals.poll
                    } else {
                        self.intervals.retry
                    }
                }
            };
            if before.is_some() && last_error.is_none() {
                log::info!("API discovery restored");
            }
            // Jitter: all nodes lose their watches together when an apiserver dies.
            sleep(pause.mul_f64(0.5 + fraction())).await;
        }
    }

    async fn attempt(&self, lists: &Sender<Vec<SocketAddr>>) -> anyhow::Result<End> {
        let access = Access::read(&self.kubeconfig)?;
        let mut client = timeout(
            self.intervals.answer_timeout,
            Client::connect(self.service, access),
        )
        .await
        .context("connection timed out")
        .flatten()
        .with_context(|| format!("connecting to `{}`", self.service))?;
        for version in SLICES {
            let path = format!(
                "/apis/discovery.k8s.io/{version}/namespaces/default/endpointslices?{SELECTOR}"
            );
            match self.whole(&mut client, &path).await? {
                (StatusCode::OK, body) => {
                    let listed = slice::list(&body)?;
                    let _ = lists.send(listed.servers).await;
                    return self.watch(client, &path, &listed.version, lists).await;
                }
                (StatusCode::NOT_FOUND, _) => {}
                (StatusCode::FORBIDDEN, _) => break,
                (status, _) => bail!("EndpointSlices: {status}"),
            }
        }
        match self.whole(&mut client, ENDPOINTS).await? {
            (StatusCode::OK, body) => {
                let _ = lists.send(slice::endpoints(&body)?).await;
                Ok(End::Unwatched)
            }
            (StatusCode::FORBIDDEN, _) => Err(Forbidden.into()),
            (status, _) => bail!("Endpoints: {status}"),
        }
    }

    async fn watch(
        &self,
        mut client: Client,
        path: &str,
        version: &str,
        lists: &Sender<Vec<SocketAddr>>,
    ) -> anyhow::Result<End> {
        let seconds = WATCH + (60.0 * fraction()) as u64;
        let path = format!(
            "{path}&watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}"
        );
        let response = timeout(self.intervals.answer_timeout, client.get(&path)).await;
        let mut response = response.context("watch request timed out").flatten()?;
        match response.status() {
            StatusCode::OK => {}
            // The resource version is too old: list again.
            StatusCode::GONE => return Ok(End::Over),
            status => {
                log::debug!("watch request returned {status}");
                return Ok(End::Unwatched);
            }
        }
        let mut lines = Lines::default();
        loop {
            let frame = tokio::select! {
                frame = timeout(SILENCE, response.frame()) => frame,
                () = lists.closed() => return Ok(End::Over),
            };
            let Ok(Some(frame)) = frame else {
                return Ok(End::Over);
            };
            // A broken watch is expected when its apiserver goes away.
            let Ok(frame) = frame else {
                return Ok(End::Over);
            };
            lines.push(frame.data_ref().map_or(&[], |data| data))?;
            while let Some(line) = lines.take() {
                match slice::event(&line)? {
                    Event::Servers(servers) => {
                        let _ = lists.send(servers).await;
                    }
                    Event::Nothing => {}
                    Event::Expired => return Ok(End::Over),
                }
            }
        }
    }

    async fn whole(&self, client: &mut Client, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let asked = async {
            let response = client.get(path).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            // Its error is a box, which anyhow cannot take as it is.
            let body = body.map_err(|error| anyhow::anyhow!("reading the response: {error}"))?;
            anyhow::Ok((status, body.to_bytes()))
        };
        timeout(self.intervals.answer_timeout, asked)
            .await
            .context("timed out")
            .flatten()
    }
}

/// Neither EndpointSlices nor Endpoints may be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "this node may read neither EndpointSlices nor Endpoints of `default/kubernetes`; apply lvscare's Role and \
     RoleBinding. Only the configured servers are used"
)]
struct Forbidden;

/// One connection to the apiserver that IPVS selects.
struct Client {
    sender: SendRequest<Empty<Bytes>>,
    connection: AbortHandle,
    host: String,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Client {
    async fn connect(service: SocketAddr, access: Access) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(service).await?;
        let _ = stream.set_nodelay(true);
        let stream = TlsConnector::from(Arc::new(access.config))
            .connect(access.name, stream)
            .await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(async move {
            // Errors surface in the requests on this connection.
            let _ = connection.await;
        });
        Ok(Self {
            sender,
            connection: connection.abort_handle(),
            host: service.to_string(),
        })
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<Response<Incoming>> {
        let request = Request::get(path)
            .header(HOST, &self.host)
            .header(USER_AGENT, concat!("lvscare/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json")
            .body(Empty::new())?;
        let response = self.sender.send_request(request).await?;
        ensure!(
            response.status() != StatusCode::UNAUTHORIZED,
            "the apiserver rejected this node's client certificate"
        );
        Ok(response)
    }
}
