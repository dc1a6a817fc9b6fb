//! Writes one document per host from the plan and the PKI.
//!
//! The PKI's tables decide which host has which certificate; [`secret_scan`](crate::secret_scan)
//! checks the finished bytes for secrets of other hosts.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use serde::Serialize;
use userdata::contract::{
    API_VERSION, CLIENT_AUTHORITIES, CLIENT_SIGNER_CERTIFICATE, CLIENT_SIGNER_KEY, ENCRYPTION_FILE,
    RECOVERY_KEY, STATUS_CERTIFICATE, STATUS_KEY,
};
use userdata::document::{DocumentBuilder, HostMatch};
use userdata::network::{self, Destination, Device, MacAddress, Nameservers, Route};
use userdata::node_config::{HostsEntry, Network, NodeConfig, Role, Security};
use yaml;

use crate::kubeconfig::{self, Server};
use crate::pki::store::Pki;
use crate::pki::{AUTHORITIES, Issuer, KUBELET, LEAVES, Place, SERVICE_ACCOUNT, issue};
use crate::plan::{ClusterPlan, HostPlan};
use crate::state_keys::RecoveryKeys;

const KUBERNETES: &str = "/etc/kubernetes";

/// For the discovery of a joining host, by its kubelet certificate instead of a token.
const DISCOVERY: &str = "/etc/kubernetes/discovery.conf";

/// The indentation of a file's contents in user-data.
const INDENT: &str = "    ";

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
    /// Name and bytes of each file of a seed.
    pub fn files(&self) -> [(&'static str, &[u8]); 3] {
        [
            ("meta-data", self.meta_data.as_bytes()),
            ("network-config", self.network_config.as_bytes()),
            ("user-data", self.user_data.as_bytes()),
        ]
    }
}

/// Writes the documents of one cluster.
#[derive(Debug)]
pub struct Writer<'a> {
    plan: &'a ClusterPlan,
    pki: &'a Pki,
    /// Part of every instance id: a host of a new cluster is a new instance, even with an old name.
    generation: String,
    /// The `hosts` of every node file, in the form of user-data. With 1000 hosts they are most of a
    /// document and equal in all; writing them once takes a quarter of the time.
    hosts: String,
    /// Of hosts with encrypted state.
    recovery: Option<&'a RecoveryKeys>,
}

#[derive(Serialize)]
struct Hosts {
    hosts: Vec<HostsEntry>,
}

impl<'a> Writer<'a> {
    pub fn new(plan: &'a ClusterPlan, pki: &'a Pki) -> Result<Self> {
        let generation = issue::fingerprint(&pki.authorities.cluster.certificate)?[..12].to_owned();
        let hosts = yaml::to_string(&Hosts {
            hosts: plan.hosts_entries(),
        });
        let hosts = hosts
            .lines()
            .map(|line| format!("{INDENT}{line}\n"))
            .collect();
        Ok(Self {
            plan,
            pki,
            generation,
            hosts,
            recovery: None,
        })
    }

    /// With a recovery key in each document.
    pub fn with_recovery(self, recovery: Option<&'a RecoveryKeys>) -> Self {
        Self { recovery, ..self }
    }

    /// The document of one host.
    pub fn document(&self, host: &HostPlan) -> Result<Document> {
        let mut document = self.write(host, Vec::new())?;
        // Only a node file has this line: the rest is certificates, keys and kubeconfigs.
        let empty = format!("{INDENT}hosts: []\n");
        document.user_data = document.user_data.replacen(&empty, &self.hosts, 1);
        Ok(document)
    }

    fn write(&self, host: &HostPlan, hosts: Vec<HostsEntry>) -> Result<Document> {
        let plan = self.plan;
        let mac: MacAddress = host
            .mac
            .parse()
            .map_err(|why| anyhow!("the MAC address `{}` {why}", host.mac))?;
        let mut builder = DocumentBuilder::new(
            node_file(plan, self.pki, host, hosts),
            network(plan, host, &mac),
        )
        .domain(format!("{}.internal", plan.name))
        .instance_id(format!("{}-{}-{}", plan.name, host.name, self.generation))
        .matching(HostMatch {
            macs: vec![mac],
            uuid: host.uuid.clone(),
            serial: host.serial.clone(),
        })
        .ssh_authorized_keys(plan.ssh_authorized_keys.iter().map(String::as_str))
        .ntp(plan.ntp.iter().map(String::as_str));
        for (path, mode, text) in files(plan, self.pki, host)? {
            builder = builder.file(path, mode, text);
        }
        if let Some(keys) = self.recovery {
            let key = format!("{}\n", keys.of(&host.name)?.expose());
            builder = builder.file(RECOVERY_KEY, 0o600, key);
        }
        let texts = builder.build();
        Ok(Document {
            user_data: texts.user_data.into_exposed(),
            meta_data: texts.meta_data,
            network_config: texts.network_config,
        })
    }
}

/// The operator's kubeconfig: a context for each master, master0 first. It uses addresses, because
/// only the cluster resolves the domain.
pub fn admin_conf(plan: &ClusterPlan, pki: &Pki) -> String {
    let name = |i: usize, master: &HostPlan| match i {
        0 => plan.name.clone(),
        _ => format!("{}-{}", plan.name, master.name),
    };
    let servers: Vec<Server> = plan
        .masters()
        .enumerate()
        .map(|(i, master)| Server {
            name: name(i, master),
            url: plan.local_endpoint(master),
        })
        .collect();
    let authority = &pki.authorities.cluster.certificate;
    kubeconfig::render(
        &plan.name,
        &servers,
        authority,
        "kubernetes-admin",
        &pki.operator,
    )
}

/// Path, mode and text of the host's files by the PKI's tables.
fn files(plan: &ClusterPlan, pki: &Pki, host: &HostPlan) -> Result<Vec<(String, u32, String)>> {
    let mut files = Vec::new();
    let mut open = |path: String, text: &str| files.push((path, 0o644, text.to_owned()));
    let master = host.role != Role::Node;
    for row in AUTHORITIES
        .iter()
        .filter(|row| row.holders.include(host.role))
    {
        open(
            format!("{KUBERNETES}/pki/{}.crt", row.file),
            &pki.authorities.get(row.issuer).certificate,
        );
    }
    let pair = &pki.authorities.service_account;
    let signer = pki.authorities.get(Issuer::Clients);
    if pki.authorities.has_client_authority() {
        open(
            CLIENT_AUTHORITIES.to_owned(),
            &pki.authorities.client_bundle(),
        );
        if master {
            open(CLIENT_SIGNER_CERTIFICATE.to_owned(), &signer.certificate);
        }
    }
    if master {
        open(
            format!("{KUBERNETES}/pki/{SERVICE_ACCOUNT}.pub"),
            &pair.public,
        );
    }
    let leaves: Vec<_> = LEAVES
        .iter()
        .filter(|row| row.holders.include(host.role))
        .collect();
    for row in &leaves {
        let path = match row.place {
            Place::Files(name) => format!("{KUBERNETES}/pki/{name}.crt"),
            Place::Status => STATUS_CERTIFICATE.to_owned(),
            Place::Endpoint(_) | Place::Local(_) => continue,
        };
        open(path, &pki.issued(host, row.name)?.certificate);
    }
    let mut secret = |path: String, text: &str| files.push((path, 0o600, text.to_owned()));
    if master {
        for row in &AUTHORITIES {
            secret(
                format!("{KUBERNETES}/pki/{}.key", row.file),
                pki.authorities.get(row.issuer).key.expose(),
            );
        }
        secret(
            format!("{KUBERNETES}/pki/{SERVICE_ACCOUNT}.key"),
            pair.key.expose(),
        );
        if pki.authorities.has_client_authority() {
            secret(CLIENT_SIGNER_KEY.to_owned(), signer.key.expose());
        }
    }
    if let Some(key) = pki.encryption_key.as_ref().filter(|_| master) {
        secret(ENCRYPTION_FILE.to_owned(), &key.configuration());
    }
    for row in &leaves {
        let issued = pki.issued(host, row.name)?;
        let config = |url: String| {
            let server = [Server {
                name: plan.name.clone(),
                url,
            }];
            let user = row.common_name.replace("<host>", &host.name);
            kubeconfig::render(
                &plan.name,
                &server,
                &pki.authorities.get(Issuer::Cluster).certificate,
                &user,
                issued,
            )
        };
        match row.place {
            Place::Files(name) => {
                secret(format!("{KUBERNETES}/pki/{name}.key"), issued.key.expose());
            }
            Place::Status => secret(STATUS_KEY.to_owned(), issued.key.expose()),
            Place::Local(name) => secret(
                format!("{KUBERNETES}/{name}"),
                &config(plan.local_endpoint(host)),
            ),
            Place::Endpoint(name) => {
                let text = config(plan.endpoint());
                secret(format!("{KUBERNETES}/{name}"), &text);
                if row.name == KUBELET && host.role != Role::Master0 {
                    secret(DISCOVERY.to_owned(), &text);
                }
            }
        }
    }
    Ok(files)
}

fn node_file(plan: &ClusterPlan, pki: &Pki, host: &HostPlan, hosts: Vec<HostsEntry>) -> NodeConfig {
    NodeConfig {
        api_version: API_VERSION.to_owned(),
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
        hosts,
        labels: host.labels.clone(),
        taints: host.taints.clone(),
        kubernetes: plan.kubernetes.clone(),
        seed: plan.seed,
        security: Security {
            encrypted_secrets: pki.encryption_key.is_some(),
            kubelet_certificates: true,
            client_authority: pki.authorities.has_client_authority(),
        },
    }
}

/// The network of the card with the host's MAC address, whatever its name.
fn network(plan: &ClusterPlan, host: &HostPlan, mac: &MacAddress) -> network::Network {
    let default = |gateway: &std::net::IpAddr| Route {
        to: Destination::Default,
        via: Some(*gateway),
        ..Route::default()
    };
    let servers = &plan.network.nameservers;
    let has_v6 = host.addresses.iter().any(|net| net.addr().is_ipv6());
    let card = Device {
        matching: Some(network::Match {
            macaddress: Some(mac.clone()),
            ..network::Match::default()
        }),
        addresses: host.addresses.clone(),
        routes: plan.network.gateways.iter().map(default).collect(),
        nameservers: (!servers.is_empty()).then(|| Nameservers {
            addresses: servers.clone(),
            ..Nameservers::default()
        }),
        // Addresses and gateway are the topology's. With a second address of the same network the
        // kernel may choose it as source, and no certificate names it.
        accept_ra: has_v6.then_some(false),
        ..Device::default()
    };
    network::Network {
        ethernets: BTreeMap::from([("node".to_owned(), card)]),
        ..network::Network::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::check;

    /// Compares [`Writer::document`] with a plain serialization.
    #[test]
    fn shared_hosts_equal_hosts_of_each_document() -> Result<()> {
        let text = include_str!("../tests/topologies/prod.yaml");
        let plan = check::read("prod.yaml", text)?.plan;
        let empty = tempfile::tempdir()?;
        let pki = Pki::prepare(empty.path(), &plan, issue::NOT_BEFORE)?;
        let writer = Writer::new(&plan, &pki)?;
        for host in &plan.hosts {
            let long = writer.write(host, plan.hosts_entries())?;
            assert!(writer.document(host)? == long, "`{}` differs", host.name);
        }
        Ok(())
    }
}
