//! A server that behaves like a healthy or faulty apiserver, on loopback, with its own
//! certificates.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Responds to every request with this status.
    Status(u16),
    /// 404 on all other paths.
    OnlyHealthz,
    /// Accepts and never responds, like a frozen process.
    Mute,
    /// Accepts and closes.
    HangUp,
}

/// A certificate authority, its certificate in a file.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.crt"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    pub(crate) fn file(&self) -> std::path::PathBuf {
        Path::new(self.folder.path()).join("ca.crt")
    }

    /// Writes this CA certificate to the file of `other`.
    pub(crate) fn replace(&self, other: &Self) {
        std::fs::write(other.file(), self.issuer.pem()).unwrap();
    }

    fn server(&self, name: &str, expired: bool) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        if expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let (certificate, key) = self.issue(&params);
        let config = builder().with_no_client_auth();
        Arc::new(config.with_single_cert(vec![certificate], key).unwrap())
    }

    /// Requires a client certificate.
    pub(crate) fn server_with_client_certificates(&self, name: &str) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let (certificate, key) = self.issue(&params);
        let config = builder().with_client_cert_verifier(verifier.build().unwrap());
        Arc::new(config.with_single_cert(vec![certificate], key).unwrap())
    }

    /// A client's certificate and key, in one PEM text.
    pub(crate) fn client(&self, name: &str, group: &str) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        certificate.pem() + &key.serialize_pem()
    }

    fn issue(
        &self,
        params: &CertificateParams,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (certificate.der().clone(), key)
    }
}

fn builder() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
}

pub(crate) struct Apiserver {
    pub(crate) address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
    seen: Arc<Seen>,
    stall: watch::Sender<usize>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    mutes_new_ones: AtomicBool,
    paths: Mutex<Vec<String>>,
}

impl Apiserver {
    pub(crate) async fn start(authority: &Authority, behaviour: Behaviour) -> Self {
        Self::start_as(authority, behaviour, "127.0.0.1", false).await
    }

    /// With a certificate for `name`, which may have expired.
    pub(crate) async fn start_as(
        authority: &Authority,
        behaviour: Behaviour,
        name: &str,
        expired: bool,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(authority.server(name, expired));
        let seen = Arc::new(Seen::default());
        let (stall, stalled) = watch::channel(0);
        let task = tokio::spawn(accept(
            listener,
            acceptor,
            behaviour,
            Arc::clone(&seen),
            stalled,
        ));
        Self {
            address,
            task,
            seen,
            stall,
        }
    }

    /// As if the process were killed: closes the port and every connection.
    pub(crate) async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Stops responding on existing connections.
    pub(crate) fn stall_open_connections(&self) {
        self.stall.send_replace(self.connections());
    }

    /// Accepts new connections without responding.
    pub(crate) fn mute_new_connections(&self, mute: bool) {
        self.seen.mutes_new_ones.store(mute, Ordering::Relaxed);
    }

    /// Number of accepted connections.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    /// The requested paths, in order.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.seen.paths.lock().unwrap().clone()
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    behaviour: Behaviour,
    seen: Arc<Seen>,
    stalled: watch::Receiver<usize>,
) {
    // Dropping this task closes every connection.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let number = seen.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(serve(
            stream,
            acceptor.clone(),
            behaviour,
            Arc::clone(&seen),
            stalled.clone(),
            number,
        ));
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    behaviour: Behaviour,
    seen: Arc<Seen>,
    stalled: watch::Receiver<usize>,
    number: usize,
) {
    if seen.mutes_new_ones.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
    match behaviour {
        Behaviour::HangUp => return,
        Behaviour::Mute => std::future::pending().await,
        Behaviour::Status(_) | Behaviour::OnlyHealthz => {}
    }
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let service = service_fn(|request: Request<Incoming>| {
        let path = request.uri().path().to_owned();
        let status = match behaviour {
            Behaviour::Status(status) => status,
            _ if path == "/healthz" => 200,
            _ => 404,
        };
        seen.paths.lock().unwrap().push(path);
        let mut stalled = stalled.clone();
        async move {
            if number < *stalled.borrow_and_update() {
                std::future::pending::<()>().await;
            }
            let response = Response::builder()
                .status(status)
                .body(Full::new(Bytes::from_static(b"ok")));
            Ok::<_, Infallible>(response.unwrap())
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
