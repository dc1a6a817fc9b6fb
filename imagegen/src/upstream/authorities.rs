//! A site's own certificate authority, in the forms that curl and skopeo take.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// Where Debian keeps the authorities that a machine trusts.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Nothing, unless a person gives an authority.
#[derive(Debug)]
pub(super) struct Authorities(Option<tempfile::TempDir>);

impl Authorities {
    pub(super) fn new(file: Option<&Path>) -> Result<Self> {
        let Some(file) = file else {
            return Ok(Self(None));
        };
        let own = fs::read(file).with_context(|| format!("reading `{}`", file.display()))?;
        let certificates = x509_parser::pem::Pem::iter_from_buffer(&own)
            .filter(|pem| pem.as_ref().is_ok_and(|pem| pem.label == "CERTIFICATE"));
        ensure!(
            certificates.count() > 0,
            "`{}` has no certificate in PEM form; give the file of the authority's certificate",
            file.display()
        );
        let folder = tempfile::tempdir().context("creating a temporary folder")?;
        // skopeo adds the certificates of a folder to the system's; curl takes one file for all.
        let system = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty());
        let system = system.map_or_else(|| PathBuf::from(SYSTEM), PathBuf::from);
        let mut all = fs::read(&system).unwrap_or_default();
        all.push(b'\n');
        all.extend_from_slice(&own);
        for (name, bytes) in [("ca.crt", &own), ("bundle.pem", &all)] {
            let path = folder.path().join(name);
            fs::write(&path, bytes).with_context(|| format!("writing `{}`", path.display()))?;
        }
        Ok(Self(Some(folder)))
    }

    /// All authorities, for curl.
    pub(super) fn bundle(&self) -> Option<PathBuf> {
        self.0
            .as_ref()
            .map(|folder| folder.path().join("bundle.pem"))
    }

    /// The folder with the site's own, for skopeo.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.0.as_ref().map(tempfile::TempDir::path)
    }
}
