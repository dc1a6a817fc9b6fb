//! TLS configurations with server certificate checks.
//!
//! rustls with ring. Always names the provider, so that a second one in the build changes nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use anyhow::Context;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Which certificates are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Certificates signed by a CA in this PEM file for the server's address.
    Authority(PathBuf),
    /// Any.
    Anyone,
}

/// Creates TLS configurations, again when the CA file changes.
#[derive(Debug)]
pub struct Tls {
    trust: Trust,
    made: Mutex<Option<(Option<SystemTime>, Arc<ClientConfig>)>>,
}

impl Tls {
    pub fn new(trust: Trust) -> Self {
        Self {
            trust,
            made: Mutex::new(None),
        }
    }

    /// The configuration for the next connection. An unreadable file is an error of each call until
    /// it is readable.
    pub fn config(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let modified = match &self.trust {
            Trust::Authority(path) => std::fs::metadata(path)
                .and_then(|metadata| metadata.modified())
                .ok(),
            Trust::Anyone => None,
        };
        // Single-threaded: the lock is never poisoned.
        let mut made = self
            .made
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((at, config)) = made.as_ref()
            && *at == modified
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(make(&self.trust)?);
        *made = Some((modified, Arc::clone(&config)));
        Ok(config)
    }
}

fn make(trust: &Trust) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::Authority(path) => builder.with_root_certificates(authorities(path)?),
        Trust::Anyone => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
    };
    let mut config = builder.with_no_client_auth();
    // A resumed session would not verify the certificate again.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A configuration with a client certificate.
pub fn with_identity(
    authorities: Vec<CertificateDer<'static>>,
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).context("reading the authority")?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates, key)
        .context("taking the client's certificate and key")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn authorities(path: &Path) -> anyhow::Result<RootCertStore> {
    let reading = || format!("reading the authorities in `{}`", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).with_context(reading)? {
        roots
            .add(certificate.with_context(reading)?)
            .with_context(reading)?;
    }
    anyhow::ensure!(!roots.is_empty(), "no certificate in `{}`", path.display());
    Ok(roots)
}

/// Accepts any certificate, but verifies that the peer has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
