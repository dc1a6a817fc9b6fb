//! Writes a document: the three texts of a NoCloud seed.
//!
//! `Document::parse` reads the texts back, and they pass cloud-init's schema check.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::HostMatch;
use crate::cloud_config::{File, Owner};
use crate::contract;
use crate::network::Network;
use crate::node_config::NodeConfig;
use crate::secret::Secret;

/// The files of a seed, by their NoCloud names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    /// Secret: `write_files` holds private keys.
    pub user_data: Secret<String>,
    pub meta_data: String,
    pub network_config: String,
}

/// Builds the document of one host.
#[derive(Debug, Clone)]
pub struct DocumentBuilder {
    node: NodeConfig,
    network: Network,
    domain: Option<String>,
    instance_id: Option<String>,
    matching: HostMatch,
    files: Vec<File>,
    ssh_authorized_keys: Vec<String>,
    ntp: Vec<String>,
}

impl DocumentBuilder {
    pub fn new(node: NodeConfig, network: Network) -> Self {
        DocumentBuilder {
            node,
            network,
            domain: None,
            instance_id: None,
            matching: HostMatch::default(),
            files: Vec::new(),
            ssh_authorized_keys: Vec::new(),
            ntp: Vec::new(),
        }
    }

    /// Appended to the node name to form the `fqdn`.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Default: `<cluster>-<name>`. cloud-init treats a new ID as a new instance.
    #[must_use]
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.instance_id = Some(id.into());
        self
    }

    #[must_use]
    pub fn matching(mut self, matching: HostMatch) -> Self {
        self.matching = matching;
        self
    }

    /// A file owned by root.
    #[must_use]
    pub fn file(mut self, path: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.files.push(File {
            path: path.into(),
            owner: Owner::root(),
            mode,
            content: Secret::new(content.into()),
            append: false,
            defer: false,
        });
        self
    }

    #[must_use]
    pub fn ssh_authorized_keys<S: Into<String>>(
        mut self,
        keys: impl IntoIterator<Item = S>,
    ) -> Self {
        self.ssh_authorized_keys
            .extend(keys.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn ntp<S: Into<String>>(mut self, servers: impl IntoIterator<Item = S>) -> Self {
        self.ntp.extend(servers.into_iter().map(Into::into));
        self
    }

    #[cfg(test)]
    pub(super) fn files(&self) -> impl Iterator<Item = &File> {
        self.files.iter()
    }

    /// The same input gives the same bytes.
    pub fn build(&self) -> Texts {
        let node = yaml::to_string(&self.node);
        let mut files: Vec<WrittenFile<'_>> = self.files.iter().map(WrittenFile::new).collect();
        files.push(WrittenFile {
            path: contract::NODE_FILE,
            owner: "root:root".to_owned(),
            permissions: "0600".to_owned(),
            encoding: None,
            content: node,
        });
        let user_data = yaml::to_string(&Written {
            hostname: &self.node.name,
            fqdn: self
                .domain
                .as_ref()
                .map(|domain| format!("{}.{domain}", self.node.name)),
            ssh_authorized_keys: &self.ssh_authorized_keys,
            ntp: (!self.ntp.is_empty()).then_some(WrittenNtp {
                enabled: true,
                servers: &self.ntp,
            }),
            write_files: files,
        });
        let default_id = || format!("{}-{}", self.node.cluster, self.node.name);
        Texts {
            user_data: Secret::new(format!("#cloud-config\n{user_data}")),
            meta_data: yaml::to_string(&WrittenMeta {
                instance_id: self.instance_id.clone().unwrap_or_else(default_id),
                local_hostname: &self.node.name,
                matching: &self.matching,
            }),
            network_config: yaml::to_string(&WrittenNetwork {
                network: &self.network,
            }),
        }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    hostname: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fqdn: Option<String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    ssh_authorized_keys: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    ntp: Option<WrittenNtp<'a>>,
    write_files: Vec<WrittenFile<'a>>,
}

#[derive(Serialize)]
struct WrittenNtp<'a> {
    enabled: bool,
    servers: &'a [String],
}

#[derive(Serialize)]
struct WrittenFile<'a> {
    path: &'a str,
    owner: String,
    permissions: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    content: String,
}

impl<'a> WrittenFile<'a> {
    fn new(file: &'a File) -> Self {
        let (encoding, content) = match std::str::from_utf8(file.content.expose()) {
            Ok(text) => (None, text.to_owned()),
            Err(_) => (Some("b64"), STANDARD.encode(file.content.expose())),
        };
        let group = file
            .owner
            .group
            .as_deref()
            .map(|group| format!(":{group}"))
            .unwrap_or_default();
        WrittenFile {
            path: &file.path,
            owner: format!("{}{group}", file.owner.user),
            permissions: format!("{:04o}", file.mode),
            encoding,
            content,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct WrittenMeta<'a> {
    instance_id: String,
    local_hostname: &'a str,
    #[serde(rename = "match", skip_serializing_if = "HostMatch::is_empty")]
    matching: &'a HostMatch,
}

#[derive(Serialize)]
struct WrittenNetwork<'a> {
    network: &'a Network,
}
