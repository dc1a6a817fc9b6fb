//! One document per host: the only place where the plan and the PKI meet.
//!
//! Which certificate goes to whom is the PKI table's to say; whether the result holds too much is judged
//! afterwards, on the bytes, by [`leaks`](crate::leaks).

use std::collections::BTreeMap;

use anyhow::Result;
use ipnet::IpNet;
use serde::Serialize;
use userdata::node::{Network, NodeFile, Role};
use userdata::{paths, yaml};

use crate::kubeconfig::{self, Server};
use crate::pki::store::Pki;
use crate::pki::{AUTHORITIES, Issuer, KUBELET, LEAVES, Place, SERVICE_ACCOUNT, issue};
use crate::plan::{ClusterPlan, HostPlan};

const KUBERNETES: &str = "/etc/kubernetes";

/// A joining host discovers the cluster with this: its own kubelet certificate, and no token.
const DISCOVERY: &str = "/etc/kubernetes/discovery.conf";

/// The three files of a NoCloud seed.
#[derive(Clone, PartialEq, Eq)]
pub struct Document {
    pub user_data: String,
    pub meta_data: String,
    pub network_config: String,
}

// A document holds private keys.
impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Document(..)")
    }
}

impl Document {
    /// Name and bytes of each file, as a seed has them.
    pub fn files(&self) -> [(&'static str, &[u8]); 3] {
        [
            ("meta-data", self.meta_data.as_bytes()),
            ("network-config", self.network_config.as_bytes()),
            ("user-data", self.user_data.as_bytes()),
        ]
    }
}

/// The document of one host.
pub fn document(plan: &ClusterPlan, pki: &Pki, host: &HostPlan) -> Result<Document> {
    let with_keys = !plan.ssh_authorized_keys.is_empty();
    let user_data = UserData {
        hostname: &host.name,
        fqdn: plan.fqdn(host),
        users: [],
        // Keys are root's: there is nobody else on an immutable node.
        disable_root: with_keys.then_some(false),
        ssh_authorized_keys: &plan.ssh_authorized_keys,
        ntp: (!plan.ntp.is_empty()).then(|| Ntp {
            enabled: true,
            servers: &plan.ntp,
        }),
        write_files: files(plan, pki, host)?,
    };
    // The authority is part of the identity: the same name in a cluster made anew is another machine.
    let generation = issue::fingerprint(&pki.authorities.cluster.certificate)?;
    let meta_data = MetaData {
        instance_id: format!("{}-{}-{}", plan.name, host.name, &generation[..12]),
        local_hostname: &host.name,
        matches: Match { macs: [&host.mac] },
    };
    Ok(Document {
        user_data: format!("#cloud-config\n{}", yaml::to_string(&user_data)),
        meta_data: yaml::to_string(&meta_data),
        network_config: yaml::to_string(&network_config(plan, host)),
    })
}

/// The kubeconfig of the person at the building machine: master0 first, and a context for every other master.
/// By address, because the domain is known inside the cluster only.
pub fn admin_conf(plan: &ClusterPlan, pki: &Pki) -> String {
    let servers: Vec<Server> = plan
        .masters()
        .enumerate()
        .map(|(i, master)| Server {
            name: if i == 0 {
                plan.name.clone()
            } else {
                format!("{}-{}", plan.name, master.name)
            },
            url: plan.local_endpoint(master),
        })
        .collect();
    kubeconfig::render(
        &plan.name,
        &servers,
        &pki.authorities.cluster.certificate,
        "kubernetes-admin",
        &pki.operator,
    )
}

fn files(plan: &ClusterPlan, pki: &Pki, host: &HostPlan) -> Result<Vec<WriteFile>> {
    let mut files = vec![WriteFile::open(
        paths::NODE_FILE,
        yaml::to_string(&node_file(plan, host)),
    )];
    for row in AUTHORITIES
        .iter()
        .filter(|row| row.holders.include(host.role))
    {
        let authority = pki.authorities.get(row.issuer);
        files.push(WriteFile::open(
            format!("{KUBERNETES}/pki/{}.crt", row.file),
            authority.certificate.clone(),
        ));
        if host.role != Role::Node {
            let key = authority.key.expose().to_owned();
            files.push(WriteFile::secret(
                format!("{KUBERNETES}/pki/{}.key", row.file),
                key,
            ));
        }
    }
    if host.role != Role::Node {
        let pair = &pki.authorities.service_account;
        let path = format!("{KUBERNETES}/pki/{SERVICE_ACCOUNT}");
        files.push(WriteFile::secret(
            format!("{path}.key"),
            pair.key.expose().to_owned(),
        ));
        files.push(WriteFile::open(format!("{path}.pub"), pair.public.clone()));
    }
    let authority = &pki.authorities.get(Issuer::Cluster).certificate;
    let config = |url: String, common_name: &str, issued| {
        let user = common_name.replace("<host>", &host.name);
        let server = [Server {
            name: plan.name.clone(),
            url,
        }];
        kubeconfig::render(&plan.name, &server, authority, &user, issued)
    };
    for row in LEAVES.iter().filter(|row| row.holders.include(host.role)) {
        let issued = pki.issued(host, row.name)?;
        match row.place {
            Place::Files(name) => {
                let path = format!("{KUBERNETES}/pki/{name}");
                files.push(WriteFile::open(
                    format!("{path}.crt"),
                    issued.certificate.clone(),
                ));
                files.push(WriteFile::secret(
                    format!("{path}.key"),
                    issued.key.expose().to_owned(),
                ));
            }
            Place::Endpoint(name) => {
                let text = config(plan.endpoint(), row.common_name, issued);
                files.push(WriteFile::secret(
                    format!("{KUBERNETES}/{name}"),
                    text.clone(),
                ));
                if row.name == KUBELET && host.role != Role::Master0 {
                    files.push(WriteFile::secret(DISCOVERY, text));
                }
            }
            Place::Local(name) => {
                let text = config(plan.local_endpoint(host), row.common_name, issued);
                files.push(WriteFile::secret(format!("{KUBERNETES}/{name}"), text));
            }
        }
    }
    Ok(files)
}

fn node_file(plan: &ClusterPlan, host: &HostPlan) -> NodeFile {
    NodeFile {
        api_version: "firstlight/v1".to_owned(),
        kind: "Node".to_owned(),
        cluster: plan.name.clone(),
        role: host.role,
        name: host.name.clone(),
        addresses: host.addresses.clone(),
        masters: plan.master_list(),
        apiserver: plan.apiserver.clone(),
        network: Network {
            pods: plan.network.pods.clone(),
            services: plan.network.services.clone(),
        },
        hosts: plan.hosts_entries(),
        labels: host.labels.clone(),
        taints: host.taints.clone(),
        kubernetes: plan.kubernetes.clone(),
    }
}

fn network_config<'a>(plan: &'a ClusterPlan, host: &'a HostPlan) -> NetworkConfig<'a> {
    let routes = plan
        .network
        .gateways
        .iter()
        .map(|gateway| Route {
            to: if gateway.is_ipv4() {
                "0.0.0.0/0"
            } else {
                "::/0"
            },
            via: gateway.to_string(),
        })
        .collect();
    let card = Ethernet {
        matches: MatchCard {
            macaddress: &host.mac,
        },
        dhcp4: false,
        dhcp6: false,
        addresses: &host.addresses,
        routes,
        nameservers: (!plan.network.nameservers.is_empty()).then(|| Nameservers {
            addresses: plan
                .network
                .nameservers
                .iter()
                .map(ToString::to_string)
                .collect(),
        }),
    };
    NetworkConfig {
        version: 2,
        ethernets: BTreeMap::from([("node", card)]),
    }
}

#[derive(Serialize)]
struct UserData<'a> {
    hostname: &'a str,
    fqdn: String,
    users: [(); 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    disable_root: Option<bool>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    ssh_authorized_keys: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    ntp: Option<Ntp<'a>>,
    write_files: Vec<WriteFile>,
}

#[derive(Serialize)]
struct Ntp<'a> {
    enabled: bool,
    servers: &'a [String],
}

#[derive(Serialize)]
struct WriteFile {
    path: String,
    owner: &'static str,
    permissions: &'static str,
    content: String,
}

impl WriteFile {
    fn open(path: impl Into<String>, content: String) -> Self {
        Self {
            path: path.into(),
            owner: "root:root",
            permissions: "0644",
            content,
        }
    }

    fn secret(path: impl Into<String>, content: String) -> Self {
        Self {
            permissions: "0600",
            ..Self::open(path, content)
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct MetaData<'a> {
    instance_id: String,
    local_hostname: &'a str,
    #[serde(rename = "match")]
    matches: Match<'a>,
}

#[derive(Serialize)]
struct Match<'a> {
    macs: [&'a str; 1],
}

#[derive(Serialize)]
struct NetworkConfig<'a> {
    version: u8,
    ethernets: BTreeMap<&'static str, Ethernet<'a>>,
}

#[derive(Serialize)]
struct Ethernet<'a> {
    #[serde(rename = "match")]
    matches: MatchCard<'a>,
    dhcp4: bool,
    dhcp6: bool,
    addresses: &'a [IpNet],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nameservers: Option<Nameservers>,
}

#[derive(Serialize)]
struct MatchCard<'a> {
    macaddress: &'a str,
}

#[derive(Serialize)]
struct Route {
    to: &'static str,
    via: String,
}

#[derive(Serialize)]
struct Nameservers {
    addresses: Vec<String>,
}
