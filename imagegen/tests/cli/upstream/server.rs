//! A web server with TLS that answers as upstream's hosts do, or fails in a chosen way.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// An authority, and what it issued for `localhost`.
pub(super) struct Certificates {
    pub(super) authority: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Certificates {
    pub(super) fn new() -> Self {
        let own = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "authority of a test");
        let authority = params.self_signed(&own).expect("an authority");
        let issuer = Issuer::new(params, own);
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(["localhost".to_owned()])
            .and_then(|params| params.signed_by(&key, &issuer))
            .expect("a certificate");
        Self {
            authority: authority.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// How a path fails.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    Status(u16),
    /// Other bytes of the same length.
    Garbage,
    /// The connection ends after so many bytes of the answer, so many times.
    Cut {
        bytes: usize,
        times: usize,
    },
    /// The server sends so many bytes and then none.
    Silence {
        bytes: usize,
    },
    /// Ranges are not served.
    Whole,
    /// Name and password of HTTP.
    Password(&'static str),
}

/// A request: its path, and where its range begins.
pub(super) type Request = (String, Option<usize>);

#[derive(Debug, Default)]
struct Shared {
    files: BTreeMap<String, Vec<u8>>,
    faults: BTreeMap<String, Fault>,
    requests: Vec<Request>,
}

pub(super) struct Server {
    shared: Arc<Mutex<Shared>>,
    port: u16,
}

impl Server {
    pub(super) fn start(certificates: &Certificates) -> Self {
        let chain = CertificateDer::from_pem_slice(certificates.certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(certificates.key.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![chain.expect("a certificate")], key)
            .expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (shared, config) = (Arc::<Mutex<Shared>>::default(), Arc::new(config));
        let of_server = shared.clone();
        // It ends with the test program.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, config) = (of_server.clone(), config.clone());
                thread::spawn(move || {
                    let connection = ServerConnection::new(config).expect("a connection");
                    // A client that goes away is part of the tests.
                    let _ = answer(&mut StreamOwned::new(connection, stream), &shared);
                });
            }
        });
        Self { shared, port }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}/{path}", self.port)
    }

    pub(super) fn put(&self, path: &str, bytes: &[u8]) {
        lock(&self.shared)
            .files
            .insert(format!("/{path}"), bytes.to_vec());
    }

    pub(super) fn get(&self, path: &str) -> Vec<u8> {
        let shared = lock(&self.shared);
        shared
            .files
            .get(&format!("/{path}"))
            .expect("a file")
            .clone()
    }

    pub(super) fn fail(&self, path: &str, fault: Fault) {
        lock(&self.shared).faults.insert(format!("/{path}"), fault);
    }

    pub(super) fn recover(&self) {
        lock(&self.shared).faults.clear();
    }

    /// The requests since the last call.
    pub(super) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut lock(&self.shared).requests)
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

type Stream = StreamOwned<ServerConnection, TcpStream>;

fn answer(stream: &mut Stream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut lines = Vec::new();
    let mut reader = BufReader::new(&mut *stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let Some(first) = lines.first() else {
        return Ok(());
    };
    let path = first.split(' ').nth(1).unwrap_or("/").to_owned();
    let header = |name: &str| {
        let mut pairs = lines.iter().filter_map(|line| line.split_once(": "));
        pairs.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.to_owned()))
    };
    let from = header("range").and_then(|range| {
        let range = range.strip_prefix("bytes=")?.strip_suffix('-')?.to_owned();
        range.parse::<usize>().ok()
    });
    let (file, fault) = {
        let mut shared = lock(shared);
        shared.requests.push((path.clone(), from));
        let fault = shared.faults.get(&path).cloned();
        if let Some(Fault::Cut { times, .. }) = shared.faults.get_mut(&path) {
            *times -= 1;
            if *times == 0 {
                shared.faults.remove(&path);
            }
        }
        (shared.files.get(&path).cloned(), fault)
    };
    let status = |stream: &mut Stream, status: u16| {
        let text = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(text.as_bytes())?;
        close(stream)
    };
    let Some(mut bytes) = file else {
        return status(stream, 404);
    };
    let mut from = from;
    let mut end = bytes.len();
    match &fault {
        Some(Fault::Status(code)) => return status(stream, *code),
        Some(Fault::Password(pair)) => {
            let right = base64::engine::general_purpose::STANDARD.encode(pair);
            if header("authorization") != Some(format!("Basic {right}")) {
                return status(stream, 401);
            }
        }
        Some(Fault::Garbage) => bytes.iter_mut().for_each(|byte| *byte ^= 1),
        Some(Fault::Cut { bytes, .. } | Fault::Silence { bytes }) => end = *bytes,
        Some(Fault::Whole) => from = None,
        None => {}
    }
    let length = bytes.len();
    let begin = from.unwrap_or(0);
    if from.is_some() && begin >= length {
        return status(stream, 416);
    }
    let mut head = match from {
        Some(_) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {begin}-{}/{length}\r\n",
            length - 1
        ),
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    head += &format!(
        "Connection: close\r\nContent-Length: {}\r\n\r\n",
        length - begin
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&bytes[begin..end.max(begin)])?;
    stream.flush()?;
    match fault {
        // Without a farewell, as when a cable is cut.
        Some(Fault::Cut { .. }) => Ok(()),
        Some(Fault::Silence { .. }) => {
            stream
                .sock
                .set_read_timeout(Some(Duration::from_secs(60)))?;
            stream.read(&mut [0]).map(drop)
        }
        _ => close(stream),
    }
}

fn close(stream: &mut Stream) -> std::io::Result<()> {
    stream.conn.send_close_notify();
    stream.flush()
}
