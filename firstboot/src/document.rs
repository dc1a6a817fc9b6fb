//! The document as the steps need it: everything decoded, nothing left to be found out half-way.
//!
//! The one place where firstboot meets `userdata`'s readers. Nothing here touches the host.

use std::net::IpAddr;

use anyhow::{Context, Result, anyhow, ensure};
use userdata::cloud_config::{CloudConfig, Command, File, User, UserEntry};
use userdata::document::Document;
use userdata::network::Network;
use userdata::node_config::NodeConfig;
use yaml::{Diagnostic, Diagnostics};

use crate::source::seed::Seed;
use crate::system::netlink::Wanted;

/// Who `default` is in a cloud-config: a node has no other user of its own.
const DEFAULT_USER: &str = "root";

/// What one machine is to become.
#[derive(Debug)]
pub struct Host {
    pub hostname: String,
    pub fqdn: Option<String>,
    /// Users with their keys; those of the whole document are among the default user's.
    pub users: Vec<User>,
    pub ntp: Vec<String>,
    pub files: Vec<File>,
    pub network: HostNetwork,
    pub nameservers: Vec<IpAddr>,
    pub search: Vec<String>,
    /// Without one the document is a plain cloud-config, and the machine gets no role.
    pub node: Option<NodeConfig>,
    /// At every boot, before the role.
    pub boot_commands: Vec<Command>,
    /// Once, before the role.
    pub run_commands: Vec<Command>,
}

/// networkd's files, and the addresses that must be there before Kubernetes starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostNetwork {
    /// Name and text.
    pub files: Vec<(String, String)>,
    pub wanted: Vec<Wanted>,
}

/// Reads a seed whole: all that is wrong with any of its files is told in one go. The second value: notices.
pub fn understand(seed: &Seed) -> Result<(Host, Vec<Diagnostic>)> {
    let (document, notices) = Document::parse(userdata::document::Seed {
        name: &seed.origin,
        user_data: &seed.user_data,
        meta_data: &seed.meta_data,
        network_config: seed.network_config.as_deref(),
    })
    .map_err(|found| told(&found))?;
    let name = format!("{}/user-data", seed.origin);
    refuse_what_is_not_there_yet(&name, &document.cloud_config)?;
    let hostname = document
        .static_hostname()
        .or_else(|| document.node.as_ref().map(|node| node.name.clone()));
    let hostname = hostname.with_context(|| {
        format!("{name}: there is no `hostname`, and this machine has no other name")
    })?;
    let (nameservers, search) = document.network.as_ref().map(resolvers).unwrap_or_default();
    let host = Host {
        hostname,
        fqdn: document.names().fqdn,
        users: users(&document),
        network: HostNetwork {
            files: document
                .network
                .as_ref()
                .map(Network::to_networkd)
                .unwrap_or_default(),
            wanted: wanted(document.network.as_ref(), document.node.as_ref()),
        },
        nameservers,
        search,
        node: document.node,
        ntp: document
            .cloud_config
            .ntp
            .filter(|ntp| ntp.enabled)
            .map(|ntp| ntp.servers)
            .unwrap_or_default(),
        files: document.cloud_config.files,
        boot_commands: document.cloud_config.bootcmd,
        run_commands: document.cloud_config.runcmd,
    };
    Ok((host, notices))
}

fn told(found: &Diagnostics) -> anyhow::Error {
    anyhow!("{}", found.lines().collect::<Vec<_>>().join("\n"))
}

fn users(document: &Document) -> Vec<User> {
    let config = &document.cloud_config;
    let mut default = config.default_user.clone().unwrap_or_default();
    default.name = DEFAULT_USER.to_owned();
    default.ssh_authorized_keys.extend(
        document
            .ssh_authorized_keys()
            .into_iter()
            .map(str::to_owned),
    );
    let Some(entries) = &config.users else {
        return if default.ssh_authorized_keys.is_empty() {
            Vec::new()
        } else {
            vec![default]
        };
    };
    let mut users = Vec::<User>::new();
    for entry in entries {
        let user = match entry {
            UserEntry::Default => default.clone(),
            UserEntry::User(user) => (**user).clone(),
        };
        match users.iter_mut().find(|known| known.name == user.name) {
            Some(known) => known.ssh_authorized_keys.extend(user.ssh_authorized_keys),
            None => users.push(user),
        }
    }
    users
}

/// Read and understood, but there is no step for it; silence would change what the document means.
fn refuse_what_is_not_there_yet(name: &str, config: &CloudConfig) -> Result<()> {
    let with_password =
        |user: &User| user.password.is_some() || !user.lock_passwd && user.name != DEFAULT_USER;
    let users = config
        .users
        .iter()
        .flatten()
        .any(|entry| matches!(entry, UserEntry::User(user) if with_password(user)));
    let asked = [
        ("groups", !config.groups.is_empty()),
        ("password", config.password.is_some()),
        ("chpasswd", !config.passwords.users.is_empty()),
        ("users[].passwd", users),
        ("ssh_pwauth: true", config.ssh_pwauth == Some(true)),
        ("timezone", config.timezone.is_some()),
        (
            "ca_certs",
            config.ca_certs.remove_defaults || !config.ca_certs.trusted.is_empty(),
        ),
        ("mounts", !config.mounts.is_empty()),
    ];
    let missing: Vec<_> = asked
        .iter()
        .filter(|(_, asked)| *asked)
        .map(|(key, _)| format!("`{key}`"))
        .collect();
    ensure!(
        missing.is_empty(),
        "{name}: {} is not supported by this image yet; remove it",
        missing.join(", ")
    );
    Ok(())
}

fn resolvers(network: &Network) -> (Vec<IpAddr>, Vec<String>) {
    let (mut servers, mut search) = (Vec::new(), Vec::new());
    for nameservers in network
        .devices()
        .filter_map(|device| device.nameservers.as_ref())
    {
        for server in &nameservers.addresses {
            if !servers.contains(server) {
                servers.push(*server);
            }
        }
        for domain in &nameservers.search {
            if !search.contains(domain) {
                search.push(domain.clone());
            }
        }
    }
    (servers, search)
}

/// The node's own addresses, each on the link that the network names; a spare link without a cable holds up nothing.
fn wanted(network: Option<&Network>, node: Option<&NodeConfig>) -> Vec<Wanted> {
    let own = node
        .map(|node| node.addresses.as_slice())
        .unwrap_or_default();
    let link_of = |address: IpAddr| {
        let device = network?
            .ethernets
            .values()
            .find(|device| device.addresses.iter().any(|net| net.addr() == address))?;
        // A link that is given another MAC no longer shows the one it is found by.
        let matching = device
            .matching
            .as_ref()
            .filter(|_| device.macaddress.is_none())?;
        Some(matching.macaddress.as_ref()?.to_string())
    };
    own.iter()
        .map(|net| Wanted {
            mac: link_of(net.addr()),
            address: net.addr(),
        })
        .collect()
}
