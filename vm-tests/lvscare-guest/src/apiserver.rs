//! The fake apiserver: health over TLS, and list and watch of the EndpointSlice
//! `default/kubernetes`.
//!
//! On the same port it accepts plain text, because TLS of the test clients would only cost emulated
//! processor time. It reads its behaviour from files at every request, so that a test can change
//! it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The first byte of a client: send all bytes back, or send only the name of the server.
pub(crate) const ECHO: u8 = b'E';
pub(crate) const NAME: u8 = b'W';

/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 22;

/// The file with the addresses of the apiservers, one per line, beside their folders.
pub(crate) const ENDPOINTS: &str = "endpoints";

struct Server {
    folder: PathBuf,
    name: String,
}

pub(crate) async fn main(arguments: &[&str]) -> anyhow::Result<()> {
    let [folder, address, name] = arguments else {
        bail!("expected folder, address and name, not {arguments:?}")
    };
    let server = Arc::new(Server {
        folder: PathBuf::from(folder),
        name: (*name).to_owned(),
    });
    let address: SocketAddr = address.parse()?;
    let listener = TcpListener::bind(address).await.context("listening")?;
    loop {
        let (stream, _) = listener.accept().await?;
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            // An error of one client does not affect the others.
            let _ = server.serve(stream).await;
        });
    }
}

impl Server {
    async fn serve(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut first = [0];
        stream.peek(&mut first).await?;
        if first[0] == HANDSHAKE {
            let stream = self.acceptor()?.accept(stream).await?;
            let service = service_fn(|request| self.answer(request));
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await?;
            return Ok(());
        }
        stream.read_exact(&mut first).await?;
        stream
            .write_all(format!("{}\n", self.name).as_bytes())
            .await?;
        if first[0] == ECHO {
            let (mut from, mut to) = stream.split();
            copy(&mut from, &mut to).await?;
        }
        Ok(())
    }

    fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        let name = read(&self.folder.join("certificate"));
        let pem = std::fs::read(self.folder.join(format!("{name}.pem")))?;
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>()?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certificates, PrivateKeyDer::from_pem_slice(&pem)?)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
        let endpoints = self.folder.with_file_name(ENDPOINTS);
        if request.uri().path().contains("/endpointslices") {
            let watches = request
                .uri()
                .query()
                .is_some_and(|query| query.contains("watch=1"));
            let body = if watches {
                watch(endpoints)
            } else {
                let items = slice(&read(&endpoints));
                full(format!(
                    r#"{{"metadata":{{"resourceVersion":"7"}},"items":[{items}]}}"#
                ))
            };
            return Ok(Response::new(body));
        }
        let behaviour = read(&self.folder.join("behaviour"));
        let status = match behaviour.split_once(' ') {
            Some(("slow", milliseconds)) => {
                let time = Duration::from_millis(milliseconds.parse().unwrap_or(0));
                tokio::time::sleep(time).await;
                200
            }
            _ => behaviour.parse().unwrap_or(200),
        };
        let mut response = Response::new(full("ok".to_owned()));
        *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
        Ok(response)
    }
}

fn full(text: String) -> UnsyncBoxBody<Bytes, Infallible> {
    Full::new(Bytes::from(text)).boxed_unsync()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Sends the EndpointSlice at every change of the file.
fn watch(endpoints: PathBuf) -> UnsyncBoxBody<Bytes, Infallible> {
    let changes = stream::unfold(read(&endpoints), move |last| {
        let endpoints = endpoints.clone();
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let now = read(&endpoints);
                if now != last {
                    let event = format!("{{\"type\":\"MODIFIED\",\"object\":{}}}\n", slice(&now));
                    return Some((Ok(Frame::data(Bytes::from(event))), now));
                }
            }
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(changes))
}

fn slice(endpoints: &str) -> String {
    let endpoints: Vec<_> = endpoints
        .lines()
        .map(|address| format!(r#"{{"addresses":["{address}"]}}"#))
        .collect();
    format!(
        r#"{{"metadata":{{"name":"kubernetes","resourceVersion":"8"}},"endpoints":[{}],"ports":[{{"name":"https","port":6443}}]}}"#,
        endpoints.join(",")
    )
}
