//! Writes a kubeconfig for a certificate and an endpoint.
//!
//! The format is that of kubeadm (`kubeadm/app/util/kubeconfig`) with embedded data: kubeadm
//! compares server and CA with its own values, and keeps the file if they match.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use yaml;

use crate::pki::issue::Issued;

/// A kubeconfig for `user` with a context for each server. The first is the current context.
pub fn render(
    cluster: &str,
    servers: &[Server],
    authority: &str,
    user: &str,
    issued: &Issued,
) -> String {
    let authority = STANDARD.encode(authority);
    let context = |server: &Server| format!("{user}@{}", server.name);
    let file = KubeConfig {
        api_version: "v1",
        kind: "Config",
        clusters: servers
            .iter()
            .map(|server| Named {
                name: server.name.clone(),
                value: Body::Cluster {
                    server: server.url.clone(),
                    certificate_authority_data: authority.clone(),
                },
            })
            .collect(),
        contexts: servers
            .iter()
            .map(|server| Named {
                name: context(server),
                value: Body::Context {
                    cluster: server.name.clone(),
                    user: user.to_owned(),
                },
            })
            .collect(),
        current_context: servers
            .first()
            .map_or_else(|| format!("{user}@{cluster}"), context),
        preferences: Empty {},
        users: vec![Named {
            name: user.to_owned(),
            value: Body::User {
                client_certificate_data: STANDARD.encode(&issued.certificate),
                client_key_data: STANDARD.encode(issued.key.expose()),
            },
        }],
    };
    yaml::to_string(&file)
}

/// An apiserver.
#[derive(Debug, Clone)]
pub struct Server {
    /// The name of the cluster entry.
    pub name: String,
    /// `https://host:port`
    pub url: String,
}

#[derive(Serialize)]
struct KubeConfig {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    clusters: Vec<Named>,
    contexts: Vec<Named>,
    #[serde(rename = "current-context")]
    current_context: String,
    preferences: Empty,
    users: Vec<Named>,
}

#[derive(Serialize)]
struct Empty {}

struct Named {
    name: String,
    value: Body,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body {
    Cluster {
        #[serde(rename = "certificate-authority-data")]
        certificate_authority_data: String,
        server: String,
    },
    Context {
        cluster: String,
        user: String,
    },
    User {
        #[serde(rename = "client-certificate-data")]
        client_certificate_data: String,
        #[serde(rename = "client-key-data")]
        client_key_data: String,
    },
}

impl Serialize for Named {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let key = match self.value {
            Body::Cluster { .. } => "cluster",
            Body::Context { .. } => "context",
            Body::User { .. } => "user",
        };
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(key, &self.value)?;
        map.serialize_entry("name", &self.name)?;
        map.end()
    }
}
