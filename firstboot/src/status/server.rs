//! `firstboot serve-status`: serves status requests while they come.
//!
//! systemd listens (`firstboot-status.socket`) and starts the process at the first connection, so
//! that nothing runs between requests. `listener` decides which of many
//! connections stay. HTTP, so that `curl --cert` works, but no more than that: it
//! reads the first line of one request, answers and closes the connection.
//!
//! Clients need a certificate of the cluster's CA for the group `system:masters`. Every
//! control-plane host has one, and so has the `admin.conf` of the building machine. A worker has
//! none: it does not need to know what other hosts wait for.

use std::io::{self, Read, Write, stdin};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, Stream};
use serde_json::json;
use userdata::contract::{CLIENT_AUTHORITIES, STATUS_CERTIFICATE, STATUS_KEY};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::StatusReport;
use super::listener::{self, Place};
use crate::system::files::Root;

/// For the handshake, and for the whole request; a slow machine on a slow line takes a second.
const HANDSHAKE: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(10);
/// Errors of clients without a certificate of the cluster in the journal; more are only counted.
const LOGGED: u32 = 10;
/// Our client sends 100 bytes, curl 90.
const REQUEST_LIMIT: usize = 4096;
const READERS: &str = "system:masters";
const CA_CERTIFICATE: &str = "/etc/kubernetes/pki/ca.crt";

/// Answers on standard input, which is the socket that systemd listens on.
pub fn run(root: &Root) -> Result<()> {
    let socket = stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("taking the socket from standard input")?;
    let listener = TcpListener::from(socket);
    listener
        .local_addr()
        .context("standard input is not a socket; firstboot-status.socket starts this program")?;
    let (config, root) = (config(root)?, root.clone());
    let errors = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&errors);
    listener::run(&listener, move |stream, peer, place| {
        serve(stream, peer, place, &config, &root, &count);
    })?;
    let errors = errors.load(Ordering::Relaxed);
    if errors > LOGGED {
        log::warn!("{errors} connections ended without the certificate of a reader");
    }
    Ok(())
}

/// A client's mistake is not a failure of this service.
fn serve(
    stream: TcpStream,
    peer: IpAddr,
    place: &Place,
    config: &Arc<ServerConfig>,
    root: &Root,
    errors: &AtomicU32,
) {
    let problem = match answer(stream, Arc::clone(config), root, place) {
        Ok(None) => return,
        Ok(Some(refused)) => format!("rejected request from {peer}: {refused}"),
        Err(error) => format!("serving {peer}: {error:#}"),
    };
    // Anybody can connect, and could fill the journal.
    if errors.fetch_add(1, Ordering::Relaxed) < LOGGED {
        log::warn!("{problem}");
    }
}

/// Presents the status certificate, and accepts client certificates of the cluster's CA.
fn config(root: &Root) -> Result<Arc<ServerConfig>> {
    let certificate = material(root, "certificate", STATUS_CERTIFICATE)?;
    let key = material(root, "key", STATUS_KEY)?;
    let mut ca = RootCertStore::empty();
    for one in authorities(root)? {
        ca.add(one).context("loading the CA certificate")?;
    }
    // The error may quote the key.
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|_| anyhow!("`{STATUS_KEY}` is not a private key in PEM"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(ca.into(), provider.clone())
        .build()
        .context("loading the CA certificate")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("choosing TLS 1.3")?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(&certificate)?, key)
        .with_context(|| format!("using `{STATUS_CERTIFICATE}`"))?;
    // No client connects to the same process again.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The authorities of clients, if they have their own, else the cluster's.
fn authorities(root: &Root) -> Result<Vec<CertificateDer<'static>>> {
    let own = found(root, "clients", CLIENT_AUTHORITIES)?.unwrap_or_default();
    let own = certificates(&own)?;
    if own.is_empty() {
        return certificates(&material(root, "authority", CA_CERTIFICATE)?);
    }
    Ok(own)
}

/// From systemd's credentials, because this process may not read the key itself; with `--root` from
/// the directory.
fn material(root: &Root, credential: &str, path: &str) -> Result<Vec<u8>> {
    let found = found(root, credential, path)?;
    found.with_context(|| format!("`{path}` is missing from the document"))
}

fn found(root: &Root, credential: &str, path: &str) -> Result<Option<Vec<u8>>> {
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(folder) if root.is_machine() => Root::new(folder).read(credential),
        _ => root.read(path),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| anyhow!("reading a certificate: {error}"))
}

/// `Some`: why the client got an error instead of the status.
fn answer(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    root: &Root,
    place: &Place,
) -> Result<Option<String>> {
    let began = Instant::now();
    let mut stream = Timed {
        stream,
        until: began + HANDSHAKE,
    };
    let mut connection = ServerConnection::new(config).context("starting TLS")?;
    // Completes the handshake: the client is known then.
    connection
        .complete_io(&mut stream)
        .context("TLS handshake")?;
    let client = connection
        .peer_certificates()
        .and_then(<[_]>::first)
        .context("the client sent no certificate")?
        .to_vec();
    let refused = reader(&client)?;
    if refused.is_none() {
        place.admit();
        stream.until = began + DEADLINE;
    }
    let mut tls = Stream::new(&mut connection, &mut stream);
    let request = head(&mut tls).context("reading the request")?;
    let (status, body, refused) = decide(refused, &request, root)?;
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    tls.write_all(&[head.as_bytes(), body.as_bytes()].concat())
        .context("answering")?;
    connection.send_close_notify();
    connection.complete_io(&mut stream).context("answering")?;
    Ok(refused)
}

/// Why the holder of this certificate of the cluster may not read the status.
pub fn reader(certificate: &[u8]) -> Result<Option<String>> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).context("parsing the client certificate")?;
    let subject = certificate.subject();
    let is_reader = subject
        .iter_organization()
        .any(|group| group.as_str() == Ok(READERS));
    Ok((!is_reader).then(|| format!("`{subject}` is not in the group {READERS}")))
}

/// Status line, body, and why the request is rejected.
fn decide(
    refused: Option<String>,
    request: &[u8],
    root: &Root,
) -> Result<(&'static str, String, Option<String>)> {
    let refuse = |status, message: String| {
        let body = json!({ "message": message }).to_string() + "\n";
        Ok((status, body, Some(message)))
    };
    if let Some(refused) = refused {
        return refuse("403 Forbidden", refused);
    }
    if !request.starts_with(b"GET /status ") {
        return refuse("404 Not Found", "only GET /status exists".to_owned());
    }
    match StatusReport::read(root)? {
        Some(report) => {
            let body = serde_json::to_string(&report).context("writing the status")? + "\n";
            Ok(("200 OK", body, None))
        }
        None => refuse(
            "503 Service Unavailable",
            "firstboot has not reported a status yet".to_owned(),
        ),
    }
}

/// The head of a request, with its empty line.
pub fn head(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let (mut head, mut part) = (Vec::new(), [0; 512]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > REQUEST_LIMIT {
            return Err(io::Error::other("the request is too long"));
        }
        match from.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => head.extend_from_slice(&part[..count]),
        }
    }
    Ok(head)
}

/// A connection with one deadline for all reads and writes.
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Some(left))
    }
}

impl Read for Timed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(bytes)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn silent_client_times_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut stream = Timed {
            stream: listener.accept().unwrap().0,
            until: Instant::now() + Duration::from_millis(50),
        };
        let error = head(&mut stream).unwrap_err();
        assert!(
            matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ),
            "{error}"
        );
        let error = stream.write(b"too late").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn request_ends_at_empty_line_and_has_a_limit() {
        let request = b"GET /status HTTP/1.1\r\nHost: m0\r\n\r\n";
        assert_eq!(head(&mut &request[..]).unwrap(), request);
        assert!(head(&mut &request[..20]).is_err());
        assert!(head(&mut io::repeat(b'a')).is_err());
    }
}
