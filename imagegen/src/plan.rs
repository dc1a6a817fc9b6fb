//! The plan: a topology with every default and every name.
//!
//! Pure: no file, no clock, no key. Later stages use the plan and not the topology.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use userdata::image_info::ImpossibleKeys;
use userdata::node_config::{Apiserver, HostsEntry, Kubernetes, Master, Role, SeedPolicy};
use userdata::state_info::{Encryption, StateInfo};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterPlan {
    pub name: String,
    /// The path in the topology; `None` is the default package.
    pub package: Option<String>,
    pub apiserver: Apiserver,
    /// Names in every apiserver's certificate, besides those that each cluster has.
    pub apiserver_names: AlternativeNames,
    pub network: NetworkPlan,
    pub validity_days: u32,
    /// Of the certificates of `system:masters`.
    pub admin_days: u32,
    pub seed: SeedPolicy,
    /// With a passphrase of each host.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub encrypts_documents: bool,
    pub ssh_authorized_keys: Vec<String>,
    pub ntp: Vec<String>,
    pub kubernetes: Kubernetes,
    pub image: ImagePlan,
    /// In the topology's order. The first master is master0.
    pub hosts: Vec<HostPlan>,
}

/// Names and addresses for which a certificate is valid.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AlternativeNames {
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
}

impl AlternativeNames {
    /// Adds an address, or else a name, once.
    pub fn add(&mut self, text: &str) {
        match text.parse() {
            Ok(ip) if !self.ips.contains(&ip) => self.ips.push(ip),
            Err(_) if !self.dns.iter().any(|name| name == text) => self.dns.push(text.to_owned()),
            _ => {}
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkPlan {
    /// Pod ranges, one per address family.
    pub pods: Vec<IpNet>,
    /// Service ranges, one per address family.
    pub services: Vec<IpNet>,
    /// At most one per address family; none for an air-gapped cluster.
    pub gateways: Vec<IpAddr>,
    pub nameservers: Vec<IpAddr>,
}

/// The topology's part of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImagePlan {
    pub kernel: Kernel,
    /// Appended to the kernel's command line.
    pub cmdline: Vec<String>,
    /// Consoles for kernel and login. The last is `/dev/console`.
    pub console: Vec<String>,
    /// Names in [`FIRMWARE`].
    pub firmware: Vec<String>,
    /// Kernel modules.
    pub modules: Vec<String>,
    /// Debian packages.
    pub packages: Vec<String>,
    /// Whether every host's document is in the seed partition.
    pub seeds: bool,
    pub impossible_keys: ImpossibleKeys,
    /// Of the state partition.
    #[serde(skip_serializing_if = "is_none")]
    pub encrypt: Encryption,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<SecureBootPlan>,
    #[serde(skip_serializing_if = "DisklessPlan::is_default")]
    pub diskless: DisklessPlan,
}

/// Where a machine that boots from the network or a medium keeps its state, besides a disk that has
/// it already and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DisklessPlan {
    /// On the only disk that is blank.
    pub blank_disks: bool,
    /// In memory also for masters, whose etcd is lost with the power.
    pub memory_masters: bool,
}

fn is_none(encryption: &Encryption) -> bool {
    *encryption == Encryption::None
}

impl DisklessPlan {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Files that sign the kernel image, as the topology names them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SecureBootPlan {
    pub key: String,
    pub certificate: String,
}

/// Names of firmware in the topology, and Debian's packages.
pub const FIRMWARE: &[(&str, &str)] = &[
    ("amd-ucode", "amd64-microcode"),
    ("bnx2", "firmware-bnx2"),
    ("bnx2x", "firmware-bnx2x"),
    ("cavium", "firmware-cavium"),
    ("intel-misc", "firmware-intel-misc"),
    ("intel-ucode", "intel-microcode"),
    ("linux-free", "firmware-linux-free"),
    ("misc-nonfree", "firmware-misc-nonfree"),
    ("myricom", "firmware-myricom"),
    ("netronome", "firmware-netronome"),
    ("netxen", "firmware-netxen"),
    ("qlogic", "firmware-qlogic"),
    ("realtek", "firmware-realtek"),
];

impl ImagePlan {
    /// Debian's packages of the firmware.
    pub fn firmware_packages(&self) -> impl Iterator<Item = &'static str> {
        let known = FIRMWARE.iter();
        let chosen = known.filter(|(name, _)| self.firmware.iter().any(|one| one == name));
        chosen.map(|(_, package)| *package)
    }

    /// What the image says about its state; `None` if it is not encrypted.
    pub fn state(&self) -> Option<StateInfo> {
        (self.encrypt != Encryption::None).then_some(StateInfo {
            encrypt: self.encrypt,
            secure_boot: self.secure_boot.is_some(),
        })
    }

    /// Whether the firmware has microcode for processors.
    pub fn has_microcode(&self) -> bool {
        self.firmware_packages()
            .any(|name| name.ends_with("-microcode"))
    }
}

/// One of Debian's kernels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernel {
    /// `linux-image-amd64`: real hardware and virtual machines.
    #[default]
    Generic,
    /// `linux-image-cloud-amd64`: virtual machines only, at a third of the size.
    Cloud,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostPlan {
    /// Host name and Kubernetes node name.
    pub name: String,
    pub role: Role,
    /// With prefix lengths. Never empty; the first is the node's address.
    pub addresses: Vec<IpNet>,
    /// Lower case, with colons.
    pub mac: String,
    pub serial: Option<String>,
    /// Lower case, in groups.
    pub uuid: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// `key=value:Effect` or `key:Effect`. `None` leaves the taints to kubeadm; an empty list means
    /// no taints.
    pub taints: Option<Vec<String>>,
}

impl ClusterPlan {
    /// All masters, master0 first.
    pub fn masters(&self) -> impl Iterator<Item = &HostPlan> {
        self.hosts.iter().filter(|host| host.role != Role::Node)
    }

    /// The list in the node file.
    pub fn master_list(&self) -> Vec<Master> {
        self.masters()
            .map(|host| Master {
                name: host.name.clone(),
                address: host.address(),
            })
            .collect()
    }

    /// The entries of `/etc/hosts` for all hosts.
    pub fn hosts_entries(&self) -> Vec<HostsEntry> {
        let entry = |host: &HostPlan, address| HostsEntry {
            address,
            names: vec![self.fqdn(host), host.name.clone()],
        };
        self.hosts
            .iter()
            .flat_map(|host| host.ips().map(move |address| entry(host, address)))
            .collect()
    }

    /// `m0.prod.internal`. `internal` is reserved for private use (ICANN board resolution of 29
    /// July 2024), so a host name never matches a public one.
    pub fn fqdn(&self, host: &HostPlan) -> String {
        host.fqdn(&self.name)
    }

    /// `https://<domain>:<port>`
    pub fn endpoint(&self) -> String {
        format!("https://{}:{}", self.apiserver.domain, self.apiserver.port)
    }

    /// The URL of the apiserver on `host`, by address.
    pub fn local_endpoint(&self, host: &HostPlan) -> String {
        match host.address() {
            IpAddr::V4(address) => format!("https://{address}:{}", self.apiserver.port),
            IpAddr::V6(address) => format!("https://[{address}]:{}", self.apiserver.port),
        }
    }
}

impl HostPlan {
    /// The node's address.
    pub fn address(&self) -> IpAddr {
        self.addresses[0].addr()
    }

    /// The name in the domain of `cluster`.
    pub fn fqdn(&self, cluster: &str) -> String {
        format!("{}.{cluster}.internal", self.name)
    }

    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(IpNet::addr)
    }
}
