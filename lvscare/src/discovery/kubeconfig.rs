//! The client identity: kubelet's kubeconfig with its rotating certificate.
//!
//! Read for each connection, because kubelet replaces the file behind the same name. Only client
//! certificates: kubelet uses no tokens and no exec plugins.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;

use crate::{tls, yaml};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context_,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
struct Context_ {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
}

/// The data for a connection. Contains a private key: never print it.
pub struct Access {
    pub config: ClientConfig,
    /// The name in the server's certificate.
    pub name: ServerName<'static>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Access {
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file: Kubeconfig = yaml::read(path)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        Self::from(&file, folder).with_context(|| format!("using kubeconfig `{}`", path.display()))
    }

    fn from(file: &Kubeconfig, folder: &Path) -> anyhow::Result<Self> {
        let current = &file.current_context;
        let context = file
            .contexts
            .iter()
            .find(|context| context.name == *current);
        let context = &context
            .with_context(|| format!("no context `{current}`"))?
            .context;
        let cluster = file
            .clusters
            .iter()
            .find(|found| found.name == context.cluster);
        let cluster = &cluster
            .with_context(|| format!("no cluster `{}`", context.cluster))?
            .cluster;
        let user = file.users.iter().find(|found| found.name == context.user);
        let user = &user
            .with_context(|| format!("no user `{}`", context.user))?
            .user;

        let part = |data: &Option<String>, path: &Option<PathBuf>, what: &str| match (data, path) {
            (Some(data), _) if !data.is_empty() => {
                // The library's error would show the data.
                STANDARD
                    .decode(data)
                    .ok()
                    .with_context(|| format!("`{what}-data` is not base64"))
            }
            (_, Some(path)) => {
                let path = folder.join(path);
                std::fs::read(&path).with_context(|| format!("reading `{}`", path.display()))
            }
            _ => bail!("no `{what}` and no `{what}-data`"),
        };
        let authority = part(
            &cluster.certificate_authority_data,
            &cluster.certificate_authority,
            "certificate-authority",
        )?;
        let certificate = part(
            &user.client_certificate_data,
            &user.client_certificate,
            "client-certificate",
        )?;
        let key = part(&user.client_key_data, &user.client_key, "client-key")?;
        let certificates = |pem: &[u8], what: &str| {
            CertificateDer::pem_slice_iter(pem)
                .collect::<Result<Vec<_>, _>>()
                .ok()
                .filter(|found| !found.is_empty())
                .with_context(|| format!("no certificate in `{what}`"))
        };
        let key = PrivateKeyDer::from_pem_slice(&key)
            .ok()
            .context("no key in `client-key`")?;
        let config = tls::with_identity(
            certificates(&authority, "certificate-authority")?,
            certificates(&certificate, "client-certificate")?,
            key,
        )?;
        let host = host_of(&cluster.server)
            .with_context(|| format!("server `{}` is not https://host:port", cluster.server))?;
        let name = cluster
            .tls_server_name
            .as_deref()
            .unwrap_or(host)
            .to_owned();
        let name = ServerName::try_from(name).context("reading the server's name")?;
        Ok(Self { config, name })
    }
}

/// `https://host:port/path`, `https://[::1]:6443`: the host.
fn host_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://")?;
    let authority = rest.split('/').next()?;
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => authority.split(':').next()?,
    };
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_cut_out_of_urls() {
        for (url, host) in [
            ("https://api.example:6443", Some("api.example")),
            ("https://10.0.0.1", Some("10.0.0.1")),
            ("https://[fd00::1]:6443/x", Some("fd00::1")),
            ("http://a:1", None),
            ("https://:1", None),
        ] {
            assert_eq!(host_of(url), host, "{url}");
        }
    }
}
