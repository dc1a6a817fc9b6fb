//! The document as the steps need it: everything decoded, nothing left to be found out half-way.
//!
//! The one place where firstboot meets `userdata`'s reader. Nothing here touches the host.

use std::net::IpAddr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use userdata::node::NodeFile;
use userdata::paths::NODE_FILE;

use crate::source::Seed;
use crate::system::netlink::Wanted;

/// What one machine is to become.
pub struct Host {
    pub hostname: String,
    pub fqdn: Option<String>,
    pub users: Vec<HostUser>,
    pub ntp: Vec<String>,
    pub files: Vec<HostFile>,
    pub network: HostNetwork,
    pub nameservers: Vec<IpAddr>,
    pub search: Vec<String>,
    /// Without one the document is a plain cloud-config, and the machine gets no role.
    pub node: Option<NodeFile>,
    /// Shell lines for every boot, before the role.
    pub boot_commands: Vec<Vec<String>>,
    /// Once, after everything else of the cloud-config.
    pub run_commands: Vec<Vec<String>>,
}

/// A user who must be there and may log in with these keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostUser {
    pub name: String,
    pub keys: Vec<String>,
    pub groups: Vec<String>,
    pub shell: Option<String>,
    pub home: Option<String>,
    pub uid: Option<u32>,
    pub gecos: Option<String>,
    pub system: bool,
    /// Lines of a sudoers file, without the user's name.
    pub sudo: Vec<String>,
}

/// A file of `write_files`, decoded.
#[derive(Clone, PartialEq, Eq)]
pub struct HostFile {
    pub path: String,
    pub content: Vec<u8>,
    pub mode: u32,
    pub owner: String,
    pub group: Option<String>,
    pub append: bool,
}

/// Contents may be keys: only their size is shown.
impl std::fmt::Debug for HostFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "HostFile({}, {} bytes, {:04o})",
            self.path,
            self.content.len(),
            self.mode
        )
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("hostname", &self.hostname)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// networkd's files, and the addresses that must be there before Kubernetes starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostNetwork {
    /// Name without our prefix, and text.
    pub files: Vec<(String, String)>,
    pub wanted: Vec<Wanted>,
}

/// By what a seed says it is for a machine; what is empty says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostMatch {
    pub macs: Vec<String>,
    pub uuid: Option<String>,
    pub serial: Option<String>,
}

fn yaml(name: &str, text: &str) -> Result<Value> {
    let parsed = userdata::yaml::parse_redacted::<Value>(name, text);
    Ok(parsed
        .map_err(|found| anyhow!("{}", found.lines().collect::<Vec<_>>().join("\n")))?
        .value)
}

/// The `match` of a seed's meta-data; `None` when there is none.
pub fn host_match(seed: &Seed) -> Result<Option<HostMatch>> {
    let Some(text) = seed
        .meta_data
        .as_deref()
        .filter(|text| !text.trim().is_empty())
    else {
        return Ok(None);
    };
    let value = yaml(&format!("{}/meta-data", seed.origin), text)?;
    let wanted = &value["match"];
    if wanted.is_null() {
        return Ok(None);
    }
    Ok(Some(HostMatch {
        macs: texts(&wanted["macs"]),
        uuid: wanted["uuid"].as_str().map(str::to_owned),
        serial: wanted["serial"].as_str().map(str::to_owned),
    }))
}

/// Reads a seed whole. The second value: notices for the journal.
pub fn understand(seed: &Seed) -> Result<(Host, Vec<String>)> {
    let name = format!("{}/user-data", seed.origin);
    let first = seed.user_data.lines().next().unwrap_or_default().trim_end();
    ensure!(
        first == "#cloud-config",
        "{name}:1:1: error: the first line must be `#cloud-config`, it is `{first}`"
    );
    let config = yaml(&name, &seed.user_data)?;
    let mut files = Vec::new();
    for (number, entry) in config["write_files"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        files.push(file(entry).with_context(|| format!("{name}: write_files[{number}]"))?);
    }
    let node = match files.iter().find(|file| file.path == NODE_FILE) {
        None => None,
        Some(file) => {
            let text = std::str::from_utf8(&file.content).context("reading the node file")?;
            let parsed = userdata::yaml::parse::<NodeFile>(NODE_FILE, text);
            Some(
                parsed
                    .map_err(|found| anyhow!("{}", found.lines().collect::<Vec<_>>().join("\n")))?
                    .value,
            )
        }
    };
    let hostname = config["hostname"].as_str().map(str::to_owned);
    let hostname = hostname.or_else(|| node.as_ref().map(|node| node.name.clone()));
    let hostname = hostname.with_context(|| format!("{name}: there is no `hostname`"))?;
    let mut keys = texts(&config["ssh_authorized_keys"]);
    let mut users = Vec::new();
    for user in config["users"].as_array().into_iter().flatten() {
        let Some(login) = user["name"].as_str() else {
            continue;
        };
        users.push(HostUser {
            name: login.to_owned(),
            keys: texts(&user["ssh_authorized_keys"]),
            ..HostUser::default()
        });
    }
    if !keys.is_empty() {
        users.insert(
            0,
            HostUser {
                name: "root".into(),
                keys: std::mem::take(&mut keys),
                ..HostUser::default()
            },
        );
    }
    let (network, nameservers) = match &seed.network_config {
        Some(text) => network(&yaml(&format!("{}/network-config", seed.origin), text)?)?,
        None => (HostNetwork::default(), Vec::new()),
    };
    let host = Host {
        fqdn: config["fqdn"].as_str().map(str::to_owned),
        ntp: texts(&config["ntp"]["servers"]),
        hostname,
        users,
        files,
        network,
        nameservers,
        search: Vec::new(),
        node,
        boot_commands: Vec::new(),
        run_commands: Vec::new(),
    };
    Ok((host, Vec::new()))
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn file(entry: &Value) -> Result<HostFile> {
    let path = entry["path"].as_str().context("there is no `path`")?;
    let text = entry["content"].as_str().unwrap_or_default();
    let content = match entry["encoding"].as_str() {
        None | Some("text/plain") => text.as_bytes().to_vec(),
        Some("b64" | "base64") => BASE64_STANDARD
            .decode(text.split_whitespace().collect::<String>())
            .map_err(|_| anyhow!("`content` is not base64"))?,
        Some(other) => bail!("unknown encoding `{other}`"),
    };
    let mode = match &entry["permissions"] {
        Value::Null => 0o644,
        Value::String(text) => u32::from_str_radix(text.trim_start_matches("0o"), 8)
            .context("reading `permissions`")?,
        _ => bail!("`permissions` must be quoted octal digits"),
    };
    let owner = entry["owner"].as_str().unwrap_or("root:root");
    let (owner, group) = owner
        .split_once(':')
        .map_or((owner, None), |(owner, group)| {
            (owner, Some(group.to_owned()))
        });
    let append = entry["append"].as_bool().unwrap_or_default();
    Ok(HostFile {
        path: path.to_owned(),
        content,
        mode,
        owner: owner.to_owned(),
        group,
        append,
    })
}

fn network(config: &Value) -> Result<(HostNetwork, Vec<IpAddr>)> {
    let config = if config["network"].is_object() {
        &config["network"]
    } else {
        config
    };
    let (mut network, mut nameservers) = (HostNetwork::default(), Vec::new());
    for (id, link) in config["ethernets"].as_object().into_iter().flatten() {
        let mac = link["match"]["macaddress"].as_str().map(str::to_lowercase);
        let matched = match &mac {
            Some(mac) => format!("PermanentMACAddress={mac}"),
            None => format!("Name={id}"),
        };
        let mut text =
            format!("[Match]\n{matched}\n\n[Network]\nDHCP=no\nLinkLocalAddressing=ipv6\n");
        for address in texts(&link["addresses"]) {
            text += &format!("Address={address}\n");
            let address: ipnet::IpNet = address
                .parse()
                .with_context(|| format!("reading the address `{address}`"))?;
            network.wanted.push(Wanted {
                mac: mac.clone(),
                address: address.addr(),
            });
        }
        for server in texts(&link["nameservers"]["addresses"]) {
            text += &format!("DNS={server}\n");
            nameservers.push(
                server
                    .parse()
                    .with_context(|| format!("reading the name server `{server}`"))?,
            );
        }
        for gateway in ["gateway4", "gateway6"]
            .iter()
            .filter_map(|key| link[*key].as_str())
        {
            text += &format!("Gateway={gateway}\n");
        }
        for route in link["routes"].as_array().into_iter().flatten() {
            let (to, via) = (
                route["to"].as_str().context("a route has no `to`")?,
                route["via"].as_str(),
            );
            text += "\n[Route]\n";
            if !matches!(to, "default" | "0.0.0.0/0" | "::/0") {
                text += &format!("Destination={to}\n");
            }
            if let Some(via) = via {
                text += &format!("Gateway={via}\n");
            }
        }
        network.files.push((format!("{id}.network"), text));
    }
    Ok((network, nameservers))
}
