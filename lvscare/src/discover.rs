//! The live list of apiservers, as the apiservers keep it: list and watch of `default/kubernetes` through the
//! virtual server.
//!
//! Tells of addresses, and decides nothing. Falls back, by what it is allowed: EndpointSlices watched, EndpointSlices
//! listed every 30 s, Endpoints read every 30 s, nothing.

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

use crate::watch::fraction;

pub mod kubeconfig;
pub mod slice;

use kubeconfig::Access;
use slice::{Event, Lines};

/// The slice of the service `kubernetes` has its name. The selector is what lets a role with `resourceNames` allow a
/// list (kubernetes.io, "Referring to resources"); before 1.21 there is only the beta.
const SLICES: [&str; 2] = ["v1", "v1beta1"];
const SELECTOR: &str = "fieldSelector=metadata.name%3Dkubernetes";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";

const LONGEST: usize = 1024 * 1024;

/// How long each part may take.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two lists without a watch.
    pub poll: Duration,
    /// After something failed, and between two watches.
    pub retry: Duration,
    /// For a connection, and for a whole answer that is no watch.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(30),
            retry: Duration::from_secs(2),
            patience: Duration::from_secs(10),
        }
    }
}

/// Seconds after which the server is asked to end a watch: so that an apiserver that came back gets its share of the
/// watches again, and a new certificate is used before the old one ends.
const WATCH: u64 = 300;

/// A watch over which nothing comes for so long is dead: the server ends it sooner.
const SILENCE: Duration = Duration::from_secs(WATCH + 90);

#[derive(Debug, Clone)]
pub struct Discovery {
    pub service: SocketAddr,
    pub kubeconfig: PathBuf,
    pub pace: Pace,
}

/// How an attempt ended.
enum End {
    /// The watch is over, as watches are: list anew, and watch on.
    Over,
    /// There is a list, but no watch to be had.
    Unwatched,
}

impl Discovery {
    /// Sends each list as it comes, until nobody listens any more.
    pub async fn run(self, lists: Sender<Vec<SocketAddr>>) {
        let mut said: Option<String> = None;
        while !lists.is_closed() {
            let before = said.take();
            let pause = match self.attempt(&lists).await {
                Ok(End::Over) => self.pace.retry,
                Ok(End::Unwatched) => self.pace.poll,
                Err(error) => {
                    let text = format!("{error:#}");
                    if before.as_ref() != Some(&text) {
                        log::warn!("asking the cluster for its apiservers: {text}");
                    }
                    said = Some(text);
                    // What is forbidden, and what is not there, stays so for a while.
                    if error.is::<Forbidden>() {
                        self.pace.poll
                    } else {
                        self.pace.retry
                    }
                }
            };
            if before.is_some() && said.is_none() {
                log::info!("the cluster tells its apiservers again");
            }
            // Nodes lose their watches together, when an apiserver dies.
            sleep(pause.mul_f64(0.5 + fraction())).await;
        }
    }

    async fn attempt(&self, lists: &Sender<Vec<SocketAddr>>) -> anyhow::Result<End> {
        let access = Access::read(&self.kubeconfig)?;
        let mut client = timeout(self.pace.patience, Client::connect(self.service, access))
            .await
            .context("no connection in time")
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
        let response = timeout(self.pace.patience, client.get(&path)).await;
        let mut response = response
            .context("no answer to the watch in time")
            .flatten()?;
        match response.status() {
            StatusCode::OK => {}
            // Too old already: list anew.
            StatusCode::GONE => return Ok(End::Over),
            status => {
                log::debug!("the watch was answered with {status}");
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
            // A broken watch is nothing unusual: its apiserver has gone.
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
            let body = body.map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?;
            anyhow::Ok((status, body.to_bytes()))
        };
        timeout(self.pace.patience, asked)
            .await
            .context("no answer in time")
            .flatten()
    }
}

/// Neither EndpointSlices nor Endpoints may be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "this node may read neither EndpointSlices nor Endpoints of `default/kubernetes`; apply lvscare's Role and \
     RoleBinding. Only the given servers are used"
)]
struct Forbidden;

/// One connection to whichever apiserver the virtual server chose.
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
            // Its end shows in what is asked over it.
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
            "the apiserver does not know this node's certificate"
        );
        Ok(response)
    }
}
