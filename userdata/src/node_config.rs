//! The node file: the place of one machine in its cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use crate::role::Role;

/// `/etc/firstlight/node.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// `firstlight/v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// `Node`.
    pub kind: String,
    pub cluster: String,
    pub role: Role,
    /// Host name and Kubernetes node name.
    pub name: String,
    /// This host's addresses with their prefix; the first is the node's address.
    pub addresses: Vec<IpNet>,
    /// All masters of the cluster, in the order of the topology; the first is master0.
    pub masters: Vec<Master>,
    pub apiserver: Apiserver,
    pub network: Network,
    /// Entries of `/etc/hosts` besides the host itself and the apiserver's domain.
    pub hosts: Vec<HostsEntry>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// As kubeadm and `kubectl taint` write them: `key=value:Effect` or `key:Effect`. `None` leaves the taints to
    /// kubeadm, which taints a control plane; an empty list means no taints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taints: Option<Vec<String>>,
    #[serde(default)]
    pub kubernetes: Kubernetes,
    #[serde(default, skip_serializing_if = "SeedPolicy::is_default")]
    pub seed: SeedPolicy,
    #[serde(default, skip_serializing_if = "Security::is_default")]
    pub security: Security,
}

/// What the documents of this cluster bring, so that kubeadm's configuration may use it. A document
/// without this key brings neither.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    /// Masters have the apiserver's `EncryptionConfiguration`.
    pub encrypted_secrets: bool,
    /// Every host has a serving certificate for its kubelet.
    pub kubelet_certificates: bool,
    /// Hosts accept clients of the authorities in
    /// [`CLIENT_AUTHORITIES`](crate::contract::CLIENT_AUTHORITIES) instead of `ca`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub client_authority: bool,
}

impl Security {
    fn is_default(&self) -> bool {
        *self == Security::default()
    }
}

/// What becomes of the secrets in the seed once the host is ready and keeps its document itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeedPolicy {
    #[default]
    Scrub,
    Keep,
}

impl SeedPolicy {
    fn is_default(&self) -> bool {
        *self == SeedPolicy::default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Master {
    pub name: String,
    pub address: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apiserver {
    pub domain: String,
    pub port: u16,
    /// The address of the domain on workers.
    pub vip: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Pod ranges, one per address family.
    pub pods: Vec<IpNet>,
    /// Service ranges, one per address family.
    pub services: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostsEntry {
    pub address: IpAddr,
    pub names: Vec<String>,
}

/// Settings of the topology that override the package's `conf/kubeadm.yaml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kubernetes {
    /// Flags without their dashes, as kubeadm's `extraArgs` takes them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub apiserver_args: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub controller_manager_args: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub scheduler_args: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub etcd_args: BTreeMap<String, String>,
    /// Fields of `KubeletConfiguration`.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub kubelet: serde_json::Map<String, serde_json::Value>,
    /// Fields of `KubeProxyConfiguration`.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub kube_proxy: serde_json::Map<String, serde_json::Value>,
    /// How long kubeadm waits for the control plane, in seconds; kubeadm's default is 240.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane_timeout_seconds: Option<u32>,
}
