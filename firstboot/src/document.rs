//! The document as the steps need it: decoded and checked completely, before a step changes
//! anything.
//!
//! The one place that calls the readers of `userdata`. Does not touch the host.

use std::net::IpAddr;

use anyhow::{Context, Result, anyhow, ensure};
use userdata::cloud_config::{Command, EtcHosts, File, Group, User};
use userdata::document::Document;
use userdata::network::Network;
use userdata::node_config::NodeConfig;
use yaml::{Diagnostic, Diagnostics};

use crate::source::seed::Seed;
use crate::system::netlink::DesiredAddress;

/// cloud-init's instance id of a seed without one.
const NO_INSTANCE: &str = "nocloud";

/// The desired state of one machine.
#[derive(Debug, Clone)]
pub struct Host {
    pub hostname: String,
    /// `preserve_hostname`: the machine keeps the name it has.
    pub keeps_hostname: bool,
    /// Whether an `/etc/hostname` is made where there is none.
    pub creates_hostname_file: bool,
    /// Whether `/etc/hosts` has lines of ours. A role always has them.
    pub manages_hosts: bool,
    /// The lines of others in `/etc/hosts`; known once the machine has been read.
    pub other_hosts: String,
    pub fqdn: Option<String>,
    /// What the document sets is set once for an instance.
    pub instance: String,
    /// Users with their keys; the default user has those of the top level.
    pub users: Vec<User>,
    pub groups: Vec<Group>,
    /// sshd takes no passwords: `ssh_pwauth: false`.
    pub forbids_passwords: bool,
    pub ntp: Vec<String>,
    pub files: Vec<File>,
    pub network: HostNetwork,
    pub nameservers: Vec<IpAddr>,
    pub search: Vec<String>,
    /// Whether DHCP or router advertisements may bring name servers.
    pub has_leases: bool,
    /// Without it the document is a plain cloud-config, and the machine has no role.
    pub node: Option<NodeConfig>,
    /// At every boot, before the role.
    pub boot_commands: Vec<Command>,
    /// Once, before the role.
    pub run_commands: Vec<Command>,
}

/// The files of systemd-networkd, and the addresses that Kubernetes needs before it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostNetwork {
    /// Name and text.
    pub files: Vec<(String, String)>,
    /// MAC address and new name of each link that has `set-name`.
    pub names: Vec<(String, String)>,
    pub addresses: Vec<DesiredAddress>,
}

/// Parses a seed completely and returns its notices too. An error lists every mistake of all files.
pub fn understand(seed: &Seed) -> Result<(Host, Vec<Diagnostic>)> {
    let files = userdata::document::Seed {
        name: &seed.origin,
        user_data: &seed.user_data,
        meta_data: &seed.meta_data,
        network_config: seed.network_config.as_deref(),
    };
    let vendor_data = seed.vendor_data.as_deref().unwrap_or_default();
    let (document, notices) =
        Document::parse_with_vendor_data(files, vendor_data).map_err(|found| error_of(&found))?;
    let name = format!("{}/user-data", seed.origin);
    let not_applied = document.cloud_config.not_applied();
    ensure!(
        not_applied.is_empty(),
        "{name}: `{}` is not supported by this image; remove it",
        not_applied.join("`, `")
    );
    let hostname = document
        .static_hostname()
        .or_else(|| document.node.as_ref().map(|node| node.name.clone()));
    let hostname = hostname.with_context(|| {
        format!("{name}: `hostname` is missing, and there is no node file with a name")
    })?;
    let (nameservers, search) = document.network.as_ref().map(resolvers).unwrap_or_default();
    let host = Host {
        hostname,
        keeps_hostname: document.cloud_config.preserve_hostname,
        creates_hostname_file: document.cloud_config.create_hostname_file,
        manages_hosts: document.cloud_config.etc_hosts != EtcHosts::Off,
        other_hosts: String::new(),
        fqdn: document.names().fqdn,
        instance: document
            .meta_data
            .instance_id
            .clone()
            .unwrap_or_else(|| NO_INSTANCE.to_owned()),
        users: document.users(),
        groups: document.cloud_config.groups,
        forbids_passwords: document.cloud_config.ssh_pwauth == Some(false),
        network: HostNetwork {
            files: match &document.network {
                Some(network) => network.to_networkd(),
                None if document.network_disabled => Vec::new(),
                None => vec![Network::fallback()],
            },
            names: document.network.as_ref().map(new_names).unwrap_or_default(),
            addresses: desired_addresses(document.network.as_ref(), document.node.as_ref()),
        },
        nameservers,
        search,
        has_leases: match &document.network {
            Some(network) => network
                .devices()
                .any(|device| device.dhcp4 || device.dhcp6 || device.accept_ra == Some(true)),
            None => !document.network_disabled,
        },
        node: document.node,
        ntp: document
            .cloud_config
            .ntp
            .filter(|ntp| ntp.enabled)
            .map(|ntp| ntp.servers)
            .unwrap_or_default(),
        files: in_order(document.cloud_config.files),
        boot_commands: document.cloud_config.bootcmd,
        run_commands: document.cloud_config.runcmd,
    };
    Ok((host, notices))
}

fn error_of(found: &Diagnostics) -> anyhow::Error {
    anyhow!("{}", found.lines().collect::<Vec<_>>().join("\n"))
}

/// cloud-init writes deferred files after all others.
fn in_order(mut files: Vec<File>) -> Vec<File> {
    files.sort_by_key(|file| file.defer);
    files
}

fn new_names(network: &Network) -> Vec<(String, String)> {
    let devices = network.ethernets.values();
    let names = devices.filter_map(|device| {
        let mac = device.matching.as_ref()?.macaddress.as_ref()?;
        Some((mac.to_string(), device.set_name.clone()?))
    });
    names.collect()
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

/// The node's addresses, each with the link that the network configuration names. Only these are
/// waited for, so that an unused link without a cable does not delay the boot.
fn desired_addresses(network: Option<&Network>, node: Option<&NodeConfig>) -> Vec<DesiredAddress> {
    let own = node
        .map(|node| node.addresses.as_slice())
        .unwrap_or_default();
    let link_of = |address: IpAddr| {
        let device = network?
            .ethernets
            .values()
            .find(|device| device.addresses.iter().any(|net| net.addr() == address))?;
        // A link with another MAC configured no longer has the one that it matches.
        let matching = device
            .matching
            .as_ref()
            .filter(|_| device.macaddress.is_none())?;
        Some(matching.macaddress.as_ref()?.to_string())
    };
    own.iter()
        .map(|net| DesiredAddress {
            mac: link_of(net.addr()),
            address: net.addr(),
        })
        .collect()
}
