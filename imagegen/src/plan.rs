//! The plan: a topology with every default filled and every name decided. What is optional here is truly optional.
//!
//! Pure: no file, no clock, no key. Nothing after this asks the topology again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use userdata::node_config::{Apiserver, HostsEntry, Kubernetes, Master, Role};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterPlan {
    pub name: String,
    /// As the topology names it; `None` is the embedded default package.
    pub package: Option<String>,
    pub apiserver: Apiserver,
    pub network: NetworkPlan,
    pub validity_days: u32,
    pub ssh_authorized_keys: Vec<String>,
    pub ntp: Vec<String>,
    pub kubernetes: Kubernetes,
    pub image: ImagePlan,
    /// In the order of the topology; the first master is master0.
    pub hosts: Vec<HostPlan>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkPlan {
    /// Pod ranges, one per address family.
    pub pods: Vec<IpNet>,
    /// Service ranges, one per address family.
    pub services: Vec<IpNet>,
    /// At most one per address family; none where the cluster has no way out.
    pub gateways: Vec<IpAddr>,
    pub nameservers: Vec<IpAddr>,
}

/// What the image stage wants to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImagePlan {
    pub kernel: Kernel,
    /// Appended to the kernel's command line.
    pub cmdline: Vec<String>,
    /// Consoles for kernel and login, the last being `/dev/console`.
    pub console: Vec<String>,
}

/// Which of Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernel {
    /// `linux-image-amd64`: real hardware and virtual machines.
    Generic,
    /// `linux-image-cloud-amd64`: virtual machines only, a third of the size.
    Cloud,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostPlan {
    /// Host name and Kubernetes node name.
    pub name: String,
    pub role: Role,
    /// With prefixes; the first is the node's address. Never empty.
    pub addresses: Vec<IpNet>,
    /// Lower case, with colons.
    pub mac: String,
    pub labels: BTreeMap<String, String>,
    /// `key=value:Effect` or `key:Effect`. `None` leaves the taints to kubeadm; an empty list means no taints.
    pub taints: Option<Vec<String>>,
}

impl ClusterPlan {
    /// All masters, master0 first.
    pub fn masters(&self) -> impl Iterator<Item = &HostPlan> {
        self.hosts.iter().filter(|host| host.role != Role::Node)
    }

    /// As the node file lists them.
    pub fn master_list(&self) -> Vec<Master> {
        self.masters()
            .map(|host| Master {
                name: host.name.clone(),
                address: host.address(),
            })
            .collect()
    }

    /// What every host resolves besides itself and the apiserver's domain: all hosts.
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

    /// `m0.prod.internal`: `internal` is reserved for private use (ICANN board resolution of 29 July 2024), so
    /// that no name of ours is ever asked of a public server.
    pub fn fqdn(&self, host: &HostPlan) -> String {
        format!("{}.{}.internal", host.name, self.name)
    }

    /// `https://<domain>:<port>`
    pub fn endpoint(&self) -> String {
        format!("https://{}:{}", self.apiserver.domain, self.apiserver.port)
    }

    /// The apiserver on one master, by address.
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

    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(IpNet::addr)
    }
}
