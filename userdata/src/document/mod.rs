//! One host's document, decoded and checked as a whole before firstboot applies any of it.
//!
//! The caller finds the bytes and decides whether the document is for this machine.

mod logins;
mod metadata;
mod names;
mod write;

#[cfg(test)]
mod tests;

pub use logins::is_locked_key;
pub use metadata::{HostMatch, Machine, MetaData, is_placeholder};
pub use names::Names;
pub use write::{DocumentBuilder, Texts};

use crate::cloud_config::{self, CloudConfig, EtcHosts, Variables};
use crate::network::Network;
use crate::node_config::NodeConfig;
use crate::{contract, validate};
use yaml::{self, Diagnostic, Diagnostics, Severity};

/// The files of a NoCloud seed as a source delivered them.
#[derive(Clone, Copy)]
pub struct Seed<'a> {
    /// Prefix of the file names in messages: `/dev/vdb/hosts/m0`. May be empty.
    pub name: &'a str,
    pub user_data: &'a [u8],
    /// May be empty: virt-install writes an empty file.
    pub meta_data: &'a [u8],
    pub network_config: Option<&'a [u8]>,
}

// The bytes hold keys.
impl std::fmt::Debug for Seed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seed")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    pub cloud_config: CloudConfig,
    pub meta_data: MetaData,
    pub network: Option<Network>,
    /// `network-config` asks for no network; without the file there is one by DHCP.
    pub network_disabled: bool,
    /// `None` for a plain cloud-config: it configures the host, which then joins no cluster.
    pub node: Option<NodeConfig>,
}

impl Document {
    /// Returns the document and notices about the keys that have no effect, or every error in any
    /// of the files.
    pub fn parse(seed: Seed<'_>) -> Result<(Document, Vec<Diagnostic>), Diagnostics> {
        Self::parse_with_vendor_data(seed, b"")
    }

    /// As [`Self::parse`], with the seed's `vendor-data`, which may be empty.
    pub fn parse_with_vendor_data(
        seed: Seed<'_>,
        vendor_data: &[u8],
    ) -> Result<(Document, Vec<Diagnostic>), Diagnostics> {
        let mut found = Diagnostics::default();
        let variables = Variables::new(&metadata::values(seed.meta_data));
        let vendor = collect(
            CloudConfig::parse_vendor_data(&seed.file("vendor-data"), vendor_data, &variables),
            &mut found,
        );
        let cloud_config = collect(
            CloudConfig::parse_with(&seed.file("user-data"), seed.user_data, &variables),
            &mut found,
        );
        let meta_data = collect(
            metadata::read(&seed.file("meta-data"), seed.meta_data),
            &mut found,
        );
        let network = collect(network(&seed), &mut found);
        let (Some(cloud_config), Some(vendor)) = (cloud_config, vendor) else {
            return Err(found);
        };
        let name = format!("{} (with vendor-data)", seed.file("user-data"));
        let below = cloud_config::below(&name, cloud_config, vendor);
        let below = below.map_err(|errors| {
            found.extend(errors);
            std::mem::take(&mut found)
        });
        let (cloud_config, key_spans) = below?;
        let node = Some(&cloud_config).and_then(|config| match node_file(&seed, &config.value) {
            Ok(node) => Some(node),
            Err(errors) => {
                found.extend(errors);
                None
            }
        });
        let (Some(meta_data), Some(network), Some(node)) = (meta_data, network, node) else {
            return Err(found);
        };
        let config = cloud_config;
        let node = node.map(|node| {
            let names = names::names(&config.value, &meta_data.value);
            agree(
                &node,
                names.hostname.as_deref(),
                network.as_ref(),
                &mut found,
            );
            role_needs(&config, &mut found);
            node.value
        });
        let document = Document {
            cloud_config: config.value,
            meta_data: meta_data.value,
            network,
            network_disabled: seed.network_config.is_some_and(is_disabled),
            node,
        };
        logins::check(&document, &key_spans, &meta_data.spans, &mut found);
        let notices = found.into_result()?;
        Ok((document, notices))
    }

    /// The host's names; both `None` if the document has no host name.
    pub fn names(&self) -> Names {
        names::names(&self.cloud_config, &self.meta_data)
    }

    /// The content of `/etc/hostname`.
    pub fn static_hostname(&self) -> Option<String> {
        let Names { hostname, fqdn } = self.names();
        if self.cloud_config.prefer_fqdn_over_hostname {
            fqdn.or(hostname)
        } else {
            hostname
        }
    }
}

impl Seed<'_> {
    fn file(&self, file: &str) -> String {
        match self.name {
            "" => file.to_owned(),
            name if name.ends_with(['/', ':']) => format!("{name}{file}"),
            name => format!("{name}/{file}"),
        }
    }
}

fn collect<T>(
    result: Result<(T, Vec<Diagnostic>), Diagnostics>,
    found: &mut Diagnostics,
) -> Option<T> {
    match result {
        Ok((value, notices)) => {
            found.extend(notices);
            Some(value)
        }
        Err(errors) => {
            found.extend(errors);
            None
        }
    }
}

fn network(seed: &Seed<'_>) -> Result<(Option<Network>, Vec<Diagnostic>), Diagnostics> {
    let name = seed.file("network-config");
    let text = text(&name, seed.network_config.unwrap_or_default())?;
    Network::parse(&name, text)
}

fn is_disabled(network_config: &[u8]) -> bool {
    std::str::from_utf8(network_config).is_ok_and(Network::is_disabled)
}

fn text<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Diagnostics> {
    std::str::from_utf8(bytes)
        .map_err(|_| Diagnostic::new(Severity::Error, name, "not text in UTF-8").into())
}

/// The node file in `write_files`, with positions in its own text.
fn node_file(
    seed: &Seed<'_>,
    config: &CloudConfig,
) -> Result<Option<yaml::Parsed<NodeConfig>>, Diagnostics> {
    let mut files = config
        .files
        .iter()
        .filter(|file| file.path == contract::NODE_FILE);
    let Some(file) = files.next() else {
        return Ok(None);
    };
    let name = format!("{}:{}", seed.file("user-data"), contract::NODE_FILE);
    let refuse = |message: &str| Err(Diagnostic::new(Severity::Error, &name, message).into());
    if files.next().is_some() {
        return refuse("the node file is written twice");
    }
    if file.append || file.defer {
        return refuse("the node file cannot be appended to or deferred");
    }
    let parsed = yaml::parse_redacted::<NodeConfig>(&name, text(&name, file.content.expose())?)?;
    let found = validate::parsed_node(&parsed);
    if found.has_errors() {
        Err(found)
    } else {
        Ok(Some(parsed))
    }
}

/// Keys that ask for what a host with a role cannot do without.
fn role_needs(config: &yaml::Parsed<CloudConfig>, found: &mut Diagnostics) {
    if config.value.preserve_hostname {
        let message = "a host with a role needs its host name, which is its node name";
        let help = Some("remove the key".to_owned());
        found.push(
            config
                .spans
                .error_at_key("preserve_hostname", message, help),
        );
    }
    if config.value.etc_hosts == EtcHosts::Off {
        let message = "`manage_etc_hosts: false` has no effect: a role needs its table of hosts";
        found.push(
            config
                .spans
                .warning_at_key("manage_etc_hosts", message, None),
        );
    }
}

/// Checks that the node file agrees with the host name and the addresses of the document.
fn agree(
    node: &yaml::Parsed<NodeConfig>,
    hostname: Option<&str>,
    network: Option<&Network>,
    found: &mut Diagnostics,
) {
    if let Some(hostname) = hostname.filter(|hostname| *hostname != node.value.name) {
        let message = format!("the document names this host `{hostname}`");
        let help = "the host name is the node name; write the same in both".to_owned();
        found.push(node.spans.error_at("name", message, Some(help)));
    }
    let Some(network) = network.filter(|network| network.devices().count() > 0) else {
        return;
    };
    if network
        .devices()
        .any(|device| device.dhcp4 || device.dhcp6 || device.accept_ra == Some(true))
    {
        return;
    }
    for (i, address) in node.value.addresses.iter().enumerate() {
        let given = network
            .devices()
            .flat_map(|device| &device.addresses)
            .any(|given| given == address);
        if !given {
            let message = "no interface of network-config is given this address";
            found.push(
                node.spans
                    .error_at(&format!("addresses[{i}]"), message, None),
            );
        }
    }
}
