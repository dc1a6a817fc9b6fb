//! Whose clients an apiserver accepts at this moment: in a TLS handshake every server names the
//! authorities of the certificates that it asks for.
//!
//! The files behind its flags do not tell: it reads them again a while after they have changed.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

/// For each read and write; a slow apiserver takes seconds.
const WITHIN: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A distinguished name in DER.
pub type Name = Vec<u8>;

/// The certificates of a PEM text.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| anyhow!("reading a certificate: {error}"))
}

/// The subjects of the certificates of a PEM text.
pub fn subjects(pem: &[u8]) -> Result<Vec<Name>> {
    let subject = |der: &CertificateDer<'_>| {
        let (_, certificate) = X509Certificate::from_der(der).context("parsing a certificate")?;
        Ok(certificate.subject().as_raw().to_vec())
    };
    certificates(pem)?.iter().map(subject).collect()
}

/// A name as people read it.
pub fn text(name: &[u8]) -> String {
    match x509_parser::x509::X509Name::from_der(name) {
        Ok((_, name)) => name.to_string(),
        Err(_) => "a name that cannot be read".to_owned(),
    }
}

/// The authorities whose clients the server at `endpoint` accepts. Its own certificate must be of
/// `authority`, in PEM.
pub fn authorities(authority: &[u8], endpoint: &str) -> Result<Vec<Name>> {
    let address: SocketAddr = endpoint
        .parse()
        .with_context(|| format!("`{endpoint}` is not an address and port"))?;
    let mut roots = RootCertStore::empty();
    for one in certificates(authority)? {
        roots.add(one).context("loading the CA certificate")?;
    }
    let names = Arc::new(Recorder::default());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choosing versions of TLS")?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::clone(&names) as Arc<dyn ResolvesClientCert>);
    let name = ServerName::IpAddress(address.ip().into());
    let mut connection = ClientConnection::new(Arc::new(config), name).context("starting TLS")?;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN)
        .with_context(|| format!("connecting to `{endpoint}`"))?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.set_write_timeout(Some(WITHIN))?;
    connection
        .complete_io(&mut stream)
        .with_context(|| format!("TLS handshake with `{endpoint}`"))?;
    let names = names.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(names.clone())
}

/// Has no certificate, and keeps the names of a server's request for one.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<Name>>);

impl ResolvesClientCert for Recorder {
    fn resolve(&self, names: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = names.iter().map(|name| name.to_vec()).collect();
        None
    }

    /// Otherwise rustls does not ask.
    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use rustls::ServerConfig;
    use rustls::ServerConnection;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::server::WebPkiClientVerifier;

    use super::*;

    fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        (certificate, Issuer::new(params, key))
    }

    #[test]
    fn handshake_names_the_authorities_of_clients() {
        let (cluster, issuer) = authority("kubernetes");
        let (clients, _) = authority("kubernetes-clients-1");
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap().pem();
        let mut accepted = RootCertStore::empty();
        for pem in [&cluster, &clients] {
            for one in certificates(pem.as_bytes()).unwrap() {
                accepted.add(one).unwrap();
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // As an apiserver, it also takes clients without a certificate.
        let verifier =
            WebPkiClientVerifier::builder_with_provider(accepted.into(), provider.clone())
                .allow_unauthenticated()
                .build()
                .unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(leaf.as_bytes()).unwrap(), key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let mut connection = ServerConnection::new(Arc::new(config)).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let _ = connection.complete_io(&mut stream);
        });
        let found = authorities(cluster.as_bytes(), &endpoint).unwrap();
        server.join().unwrap();
        let expected = subjects(format!("{cluster}{clients}").as_bytes()).unwrap();
        assert_eq!(found, expected);
        let texts: Vec<_> = found.iter().map(|name| text(name)).collect();
        assert_eq!(texts, ["CN=kubernetes", "CN=kubernetes-clients-1"]);
    }
}
