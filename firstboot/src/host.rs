//! The document as the steps need it: decoded and checked completely, before a step changes
//! anything.
//!
//! The one place that calls the readers of `userdata`. Does not touch the host.

use std::net::IpAddr;

use anyhow::{Result, anyhow};
use userdata::cloud_config::{
    CaCerts, Command, EtcHosts, File, Group, HostKey, Locale, Mount, Passwords, PhoneHome,
    PowerState, User,
};
use userdata::document::Document;
use userdata::network::Network;
use userdata::node_config::NodeConfig;
use userdata::secret::Secret;
use yaml::{Diagnostic, Diagnostics};

use crate::source::seed::Seed;
use crate::system::netlink::DesiredAddress;

/// cloud-init's instance id of a seed without one.
const NO_INSTANCE: &str = "nocloud";

/// The name in the image, which a machine keeps if its document has none.
const IMAGE_NAME: &str = "firstlight";

/// The desired state of one machine.
#[derive(Debug, Clone)]
pub struct Host {
    pub hostname: String,
    /// The machine keeps the name it has: `preserve_hostname`, or a document without a name.
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
    pub passwords: Passwords,
    /// sshd takes passwords: `ssh_pwauth: true`. Without the key it takes none.
    pub ssh_passwords: bool,
    /// SSH host keys; empty: the host makes its own.
    pub host_keys: Vec<HostKey>,
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
    /// User-data that is a script, or parts of it: once, before [`Self::run_commands`].
    pub scripts: Vec<String>,
    pub timezone: Option<String>,
    pub locale: Option<Locale>,
    pub ca_certs: CaCerts,
    pub mounts: Vec<Mount>,
    pub phone_home: Option<PhoneHome>,
    pub final_message: Option<String>,
    pub power_state: Option<PowerState>,
    /// Keys that an immutable root cannot honour, with place and reason.
    pub impossible: Vec<String>,
    /// Where the document came from.
    pub origin: String,
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
    let hostname = document
        .static_hostname()
        .or_else(|| document.node.as_ref().map(|node| node.name.clone()));
    let (nameservers, search) = document.network.as_ref().map(resolvers).unwrap_or_default();
    let host = Host {
        keeps_hostname: document.cloud_config.preserve_hostname || hostname.is_none(),
        hostname: hostname.unwrap_or_else(|| IMAGE_NAME.to_owned()),
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
        passwords: document.passwords(),
        groups: document.cloud_config.groups,
        ssh_passwords: document.cloud_config.ssh_pwauth == Some(true),
        host_keys: document.cloud_config.host_keys,
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
        scripts: document
            .cloud_config
            .scripts
            .into_iter()
            .map(Secret::into_exposed)
            .collect(),
        timezone: document.cloud_config.timezone,
        locale: document.cloud_config.locale,
        ca_certs: document.cloud_config.ca_certs,
        mounts: document.cloud_config.mounts,
        phone_home: document.cloud_config.phone_home,
        final_message: document.cloud_config.final_message,
        power_state: document.cloud_config.power_state,
        impossible: document.cloud_config.impossible,
        origin: seed.origin.clone(),
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
