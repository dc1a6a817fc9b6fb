//! The document as imagegen writes it: three texts any carrier of cloud-init userdata carries.
//!
//! What is written here is read back by `Document::parse` and is valid for cloud-init's schema checker.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::Match;
use crate::cloud_config::{File, Owner, Password, User};
use crate::contract;
use crate::network::Network;
use crate::node_config::NodeConfig;
use crate::secret::Secret;

/// The files of a seed, by their NoCloud names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    /// Holds the keys of `write_files`.
    pub user_data: Secret<String>,
    pub meta_data: String,
    pub network_config: String,
}

/// Collects what one host is to be, and writes it.
#[derive(Debug, Clone)]
pub struct DocumentBuilder {
    node: NodeConfig,
    network: Network,
    domain: Option<String>,
    instance_id: Option<String>,
    matching: Match,
    files: Vec<File>,
    users: Option<Vec<User>>,
    ssh_authorized_keys: Vec<String>,
    ntp: Vec<String>,
    timezone: Option<String>,
}

impl DocumentBuilder {
    pub fn new(node: NodeConfig, network: Network) -> Self {
        DocumentBuilder {
            node,
            network,
            domain: None,
            instance_id: None,
            matching: Match::default(),
            files: Vec::new(),
            users: None,
            ssh_authorized_keys: Vec::new(),
            ntp: Vec::new(),
            timezone: None,
        }
    }

    /// Makes the `fqdn` of the node's name.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// `<cluster>-<name>` when not given. A new one is a new instance to cloud-init.
    #[must_use]
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.instance_id = Some(id.into());
        self
    }

    #[must_use]
    pub fn matching(mut self, matching: Match) -> Self {
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

    /// Files as they are, in this order; the node file comes last whatever is given.
    #[must_use]
    pub fn files(mut self, files: impl IntoIterator<Item = File>) -> Self {
        self.files.extend(files);
        self
    }

    /// Without this the image's default user is made; an empty list makes none.
    #[must_use]
    pub fn users(mut self, users: impl IntoIterator<Item = User>) -> Self {
        self.users.get_or_insert_default().extend(users);
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

    #[must_use]
    pub fn timezone(mut self, zone: impl Into<String>) -> Self {
        self.timezone = Some(zone.into());
        self
    }

    #[cfg(test)]
    pub(super) fn given_files(&self) -> impl Iterator<Item = &File> {
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
            append: false,
            defer: false,
        });
        let user_data = yaml::to_string(&Written {
            hostname: &self.node.name,
            fqdn: self
                .domain
                .as_ref()
                .map(|domain| format!("{}.{domain}", self.node.name)),
            users: self
                .users
                .as_ref()
                .map(|users| users.iter().map(WrittenUser::new).collect()),
            ssh_authorized_keys: &self.ssh_authorized_keys,
            timezone: self.timezone.as_deref(),
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
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<Vec<WrittenUser<'a>>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    ssh_authorized_keys: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    timezone: Option<&'a str>,
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
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    append: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    defer: bool,
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
            append: file.append,
            defer: file.defer,
        }
    }
}

#[derive(Serialize)]
struct WrittenUser<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    gecos: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary_group: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    homedir: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    sudo: &'a [String],
    lock_passwd: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    passwd: Option<&'a Secret<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plain_text_passwd: Option<&'a Secret<String>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    ssh_authorized_keys: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    inactive: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiredate: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_create_home: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_user_group: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    system: bool,
}

impl<'a> WrittenUser<'a> {
    fn new(user: &'a User) -> Self {
        let (passwd, plain_text_passwd) = match &user.password {
            Some(Password::Hash(hash)) => (Some(hash), None),
            Some(Password::Text(text)) => (None, Some(text)),
            None => (None, None),
        };
        WrittenUser {
            name: &user.name,
            gecos: user.gecos.as_deref(),
            uid: user.uid,
            primary_group: user.primary_group.as_deref(),
            groups: &user.groups,
            homedir: user.homedir.as_deref(),
            shell: user.shell.as_deref(),
            sudo: &user.sudo,
            lock_passwd: user.lock_passwd,
            passwd,
            plain_text_passwd,
            ssh_authorized_keys: &user.ssh_authorized_keys,
            inactive: user.inactive.map(|days| days.to_string()),
            expiredate: user.expiredate.as_deref(),
            no_create_home: user.no_create_home,
            no_user_group: user.no_user_group,
            system: user.system,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct WrittenMeta<'a> {
    instance_id: String,
    local_hostname: &'a str,
    #[serde(rename = "match", skip_serializing_if = "Match::is_empty")]
    matching: &'a Match,
}

#[derive(Serialize)]
struct WrittenNetwork<'a> {
    network: &'a Network,
}
