//! The web server: files of `pxe/` by exact name, and documents.
//!
//! No path of a request is ever opened: it is compared with the names that exist.

use std::convert::Infallible;
use std::io::SeekFrom;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use userdata::network::MacAddress;

use super::hosts::{self, Hosts, Refusal};
use super::neighbours::Neighbours;
use super::range::{Wanted, wanted};
use super::table::Table;
use super::{AUTOEXEC, autoexec};
use crate::image::live;
use crate::pipeline::pxe::PXE;

/// Connections at once, of all and of one address. iPXE and firstboot have one each.
const CONNECTIONS: usize = 512;
const PER_ADDRESS: usize = 8;
const HEADER_WITHIN: Duration = Duration::from_secs(10);
/// A client that takes nothing for so long loses its connection.
const STALL: Duration = Duration::from_secs(30);
/// The longest life of a connection: a client that trickles does not keep it open without end.
const LIFE: Duration = Duration::from_secs(3600);
const MAX_HEADER: usize = 16 << 10;
const CHUNK: usize = 256 << 10;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    hosts: Arc<Hosts>,
    neighbours: Neighbours,
    table: Arc<Table>,
}

impl Server {
    pub fn new(folder: &Path, hosts: Arc<Hosts>, table: Arc<Table>) -> Self {
        Self {
            folder: folder.to_owned(),
            hosts,
            neighbours: Neighbours::default(),
            table,
        }
    }

    /// With another table of neighbours.
    pub fn with_neighbours(self, neighbours: Neighbours) -> Self {
        Self { neighbours, ..self }
    }
}

/// Accepts connections until the program ends.
pub async fn accept(listener: TcpListener, server: Arc<Server>) -> Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let clients: Arc<std::sync::Mutex<std::collections::HashMap<IpAddr, usize>>> = Arc::default();
    loop {
        // Further clients wait in the kernel's queue.
        let place = places.clone().acquire_owned().await;
        let place = place.context("the server ends")?;
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log::warn!("accepting a connection: {error}");
                // Out of file descriptors, most likely.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let count = {
            let mut clients = lock(&clients);
            let count = clients.entry(peer.ip()).or_default();
            *count += 1;
            *count
        };
        let (server, clients) = (server.clone(), clients.clone());
        tokio::spawn(async move {
            if count > PER_ADDRESS {
                log::debug!("{peer}: more than {PER_ADDRESS} connections");
            } else if tokio::time::timeout(LIFE, connection(stream, peer, server))
                .await
                .is_err()
            {
                log::debug!("{peer}: connection open for {} s", LIFE.as_secs());
            }
            let mut clients = lock(&clients);
            if let Some(count) = clients.get_mut(&peer.ip()) {
                *count -= 1;
                if *count == 0 {
                    clients.remove(&peer.ip());
                }
            }
            drop(place);
        });
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn connection(stream: TcpStream, peer: SocketAddr, server: Arc<Server>) {
    let stall = u32::try_from(STALL.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = setsockopt(&stream, sockopt::TcpUserTimeout, &stall) {
        log::debug!("{peer}: {error}");
    }
    let local = match stream.local_addr() {
        Ok(local) => local,
        Err(error) => return log::debug!("{peer}: {error}"),
    };
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(answer(&server, peer.ip(), local, request).await) }
    });
    let result = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WITHIN)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = result {
        log::debug!("{peer}: {error}");
    }
}

async fn answer(
    server: &Server,
    peer: IpAddr,
    local: SocketAddr,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let head = request.method() == Method::HEAD;
    if !head && request.method() != Method::GET {
        let mut response = plain(405, "only GET and HEAD are answered here");
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allowed);
        return response;
    }
    let name = path.trim_start_matches('/');
    if let Some(file) = live::FILES.iter().find(|file| **file == name) {
        return match large(server, peer, file, &request).await {
            Ok(response) => response,
            Err(error) => {
                log::error!("{error:#}");
                plain(500, "the server cannot read this file")
            }
        };
    }
    if name == AUTOEXEC {
        server.table.fetched(&server.host(peer), AUTOEXEC, None);
        return small(200, autoexec(local).into_bytes(), head);
    }
    match document(server, peer, name) {
        Ok((file, bytes)) => {
            let mut response = small(200, bytes, head);
            let none = HeaderValue::from_static("no-store");
            response.headers_mut().insert(header::CACHE_CONTROL, none);
            log::debug!("{peer}: {file}");
            response
        }
        Err(Refusal { status, reason }) => {
            server.table.refused(&peer.to_string(), &path, &reason);
            plain(status, &reason)
        }
    }
}

/// `hosts/MAC/FILE`, if the peer may have it.
fn document(
    server: &Server,
    peer: IpAddr,
    name: &str,
) -> std::result::Result<(String, Vec<u8>), Refusal> {
    let missing = || Refusal {
        status: 404,
        reason: "there is no such file here".to_owned(),
    };
    let mut parts = name.split('/');
    let (first, mac, file) = (parts.next(), parts.next(), parts.next());
    let mac = mac.and_then(|mac| mac.parse::<MacAddress>().ok());
    let (Some("hosts"), Some(mac), Some(file), None) = (first, mac, file, parts.next()) else {
        return Err(missing());
    };
    let file = hosts::FILES.iter().find(|known| **known == file);
    let file = file.ok_or_else(missing)?;
    let neighbour = server.neighbours.mac(peer);
    let host = server.hosts.may_have(&mac, peer, neighbour.as_ref())?;
    match server.hosts.file(&host, file) {
        Ok(Some(bytes)) => {
            server.table.fetched(&host.name, file, Some((1, 1)));
            Ok((format!("{} of {}", file, host.name), bytes))
        }
        Ok(None) => Err(missing()),
        Err(error) => {
            log::error!("{error:#}");
            Err(Refusal {
                status: 500,
                reason: "the server cannot read this file".to_owned(),
            })
        }
    }
}

async fn large(
    server: &Server,
    peer: IpAddr,
    name: &'static str,
    request: &Request<Incoming>,
) -> Result<Response<Body>> {
    let path = server.folder.join(PXE).join(name);
    let doing = || format!("reading `{}`", path.display());
    let mut file = tokio::fs::File::open(&path).await.with_context(doing)?;
    let meta = file.metadata().await.with_context(doing)?;
    let length = meta.len();
    let changed = meta.modified().with_context(doing)?;
    let changed = changed.duration_since(std::time::UNIX_EPOCH);
    let tag = format!("\"{length:x}-{:x}\"", changed.map_or(0, |at| at.as_nanos()));
    let text = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    // A part of another version would be of no use.
    let same = text(header::IF_RANGE).is_none_or(|wanted| wanted == tag);
    let wanted = wanted(text(header::RANGE).filter(|_| same), length);
    let builder = Response::builder()
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, tag)
        .header(header::CONTENT_TYPE, kind(name));
    let (status, first, end) = match wanted {
        Wanted::All => (200, 0, length),
        Wanted::Part(first, end) => (206, first, end),
        Wanted::Outside => {
            let range = format!("bytes */{length}");
            let builder = builder.status(416).header(header::CONTENT_RANGE, range);
            return builder.body(empty()).context("answering");
        }
    };
    let mut builder = builder
        .status(status)
        .header(header::CONTENT_LENGTH, end - first);
    if status == 206 {
        let range = format!("bytes {first}-{}/{length}", end - 1);
        builder = builder.header(header::CONTENT_RANGE, range);
    }
    let host = server.host(peer);
    if request.method() == Method::HEAD {
        return builder.body(empty()).context("answering");
    }
    server.table.fetched(&host, name, Some((end, length)));
    file.seek(SeekFrom::Start(first))
        .await
        .with_context(doing)?;
    let body = stream::unfold((file, end - first), |(mut file, left)| async move {
        if left == 0 {
            return None;
        }
        let mut buffer = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
        match file.read(&mut buffer).await {
            // The file got shorter: the client sees that the answer breaks off.
            Ok(0) => Some((Err(std::io::ErrorKind::UnexpectedEof.into()), (file, 0))),
            Ok(got) => {
                buffer.truncate(got);
                let frame = Frame::data(Bytes::from(buffer));
                Some((Ok(frame), (file, left - got as u64)))
            }
            Err(error) => Some((Err(error), (file, 0))),
        }
    });
    let body = StreamBody::new(body);
    builder.body(body.boxed_unsync()).context("answering")
}

impl Server {
    /// The host at `peer`, else its address.
    fn host(&self, peer: IpAddr) -> String {
        let mac = self.neighbours.mac(peer);
        let hosts = self.hosts.all().unwrap_or_default();
        let host = hosts.iter().find(|host| match &mac {
            Some(mac) => host.macs.contains(mac),
            None => host.addresses.contains(&peer),
        });
        host.map_or_else(|| peer.to_string(), |host| host.name.clone())
    }
}

fn kind(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, suffix)| suffix) {
        Some("efi") => "application/efi",
        Some("ipxe") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn empty() -> Body {
    Full::default()
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn small(status: u16, bytes: Vec<u8>, head: bool) -> Response<Body> {
    let length = bytes.len();
    let body = if head {
        Bytes::new()
    } else {
        Bytes::from(bytes)
    };
    let mut response = Response::new(
        Full::new(body)
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, length.into());
    response
}

fn plain(status: u16, reason: &str) -> Response<Body> {
    let mut response = small(status, format!("{reason}\n").into_bytes(), false);
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}
