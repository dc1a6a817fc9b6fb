//! The cluster's public key infrastructure as two tables, [`AUTHORITIES`] and [`LEAVES`].
//!
//! They list what kubeadm 1.20 to 1.31 creates on the hosts, with the same file names and subjects
//! (Kubernetes `cmd/kubeadm/app/phases/certs/certlist.go`, `…/kubeconfig/kubeconfig.go`), so that
//! kubeadm finds every file and creates none. [`issue`] signs certificates, [`store`] keeps them
//! between runs.
//!
//! kubeadm 1.29 and later also use a `super-admin.conf` on master0. It is not listed: kubeadm
//! creates it from the CA's key, and earlier releases do not know it.

pub mod document_key;
pub mod encryption;
pub mod folder;
pub mod issue;
mod names;
pub mod rotation;
pub mod status;
pub mod store;

use std::net::IpAddr;

use serde::Serialize;
#[cfg(doc)]
use userdata::contract::{STATUS_CERTIFICATE, STATUS_KEY};
use userdata::node_config::Role;

use crate::plan::{ClusterPlan, HostPlan};

/// The domain of Services inside the cluster; kubeadm's default.
pub const DNS_DOMAIN: &str = "cluster.local";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Issuer {
    Cluster,
    /// Signs clients of apiservers: the cluster's own authority until the first
    /// [rotation]. Its name keeps certificates that were issued before rotations existed.
    #[serde(rename = "Cluster")]
    Clients,
    FrontProxy,
    Etcd,
}

#[derive(Debug)]
pub struct AuthorityRow {
    pub issuer: Issuer,
    pub common_name: &'static str,
    /// Below `/etc/kubernetes/pki` on a host and `pki/` in the output folder, without extension.
    pub file: &'static str,
    /// The hosts with the certificate. Only masters have the key.
    pub holders: Holders,
}

#[rustfmt::skip]
pub const AUTHORITIES: [AuthorityRow; 3] = [
    AuthorityRow { issuer: Issuer::Cluster,    common_name: "kubernetes",     file: "ca",             holders: Holders::Everyone },
    AuthorityRow { issuer: Issuer::FrontProxy, common_name: "front-proxy-ca", file: "front-proxy-ca", holders: Holders::Masters },
    AuthorityRow { issuer: Issuer::Etcd,       common_name: "etcd-ca",        file: "etcd/ca",        holders: Holders::Masters },
];

/// The service-account key pair, `sa.key` and `sa.pub`; masters only.
pub const SERVICE_ACCOUNT: &str = "sa";

/// A certificate. Every holder has its own, with its own key.
#[derive(Debug)]
pub struct LeafRow {
    pub name: &'static str,
    pub issuer: Issuer,
    /// `<host>` is replaced by the host's name.
    pub common_name: &'static str,
    pub organization: Option<&'static str>,
    pub names: Names,
    pub usage: Usage,
    pub place: Place,
    pub holders: Holders,
}

/// The subject alternative names of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    None,
    Apiserver,
    Etcd,
    /// Names and addresses of the host only.
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Usage {
    Client,
    Server,
    /// etcd's gateway connects to itself with its serving certificate (etcd-io/etcd#9785).
    Both,
}

/// The files of a certificate on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `/etc/kubernetes/pki/<0>.crt` and `.key`.
    Files(&'static str),
    /// [`STATUS_CERTIFICATE`] and [`STATUS_KEY`], used by firstboot and not by kubeadm.
    Status,
    /// `/etc/kubernetes/<0>`, a kubeconfig for the control plane's endpoint.
    Endpoint(&'static str),
    /// `/etc/kubernetes/<0>`, a kubeconfig for the apiserver on the same host.
    Local(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holders {
    Masters,
    Everyone,
}

impl Holders {
    pub fn include(self, role: Role) -> bool {
        self == Holders::Everyone || role != Role::Node
    }
}

use Holders::{Everyone, Masters};
use Issuer::{Clients, Cluster, Etcd, FrontProxy};
use Place::{Endpoint, Files, Local, Status};

const MASTERS_GROUP: Option<&str> = Some("system:masters");
const NODES_GROUP: Option<&str> = Some("system:nodes");
/// A group without any rights in Kubernetes.
const STATUS_GROUP: Option<&str> = Some("firstlight:status");

#[rustfmt::skip]
pub const LEAVES: [LeafRow; 13] = [
    LeafRow { name: "apiserver",                issuer: Cluster,    common_name: "kube-apiserver",                 organization: None,          names: Names::Apiserver, usage: Usage::Server, place: Files("apiserver"),                holders: Masters },
    // kubeadm checks that `ca` has signed it, and kubelets accept clients of `ca`.
    LeafRow { name: "apiserver-kubelet-client", issuer: Cluster,    common_name: "kube-apiserver-kubelet-client",  organization: MASTERS_GROUP, names: Names::None,      usage: Usage::Client, place: Files("apiserver-kubelet-client"), holders: Masters },
    LeafRow { name: "front-proxy-client",       issuer: FrontProxy, common_name: "front-proxy-client",             organization: None,          names: Names::None,      usage: Usage::Client, place: Files("front-proxy-client"),       holders: Masters },
    LeafRow { name: "etcd-server",              issuer: Etcd,       common_name: "<host>",                         organization: None,          names: Names::Etcd,      usage: Usage::Both,   place: Files("etcd/server"),              holders: Masters },
    LeafRow { name: "etcd-peer",                issuer: Etcd,       common_name: "<host>",                         organization: None,          names: Names::Etcd,      usage: Usage::Both,   place: Files("etcd/peer"),                holders: Masters },
    LeafRow { name: "etcd-healthcheck-client",  issuer: Etcd,       common_name: "kube-etcd-healthcheck-client",   organization: MASTERS_GROUP, names: Names::None,      usage: Usage::Client, place: Files("etcd/healthcheck-client"),  holders: Masters },
    LeafRow { name: "apiserver-etcd-client",    issuer: Etcd,       common_name: "kube-apiserver-etcd-client",     organization: MASTERS_GROUP, names: Names::None,      usage: Usage::Client, place: Files("apiserver-etcd-client"),    holders: Masters },
    LeafRow { name: ADMIN,                      issuer: Clients,    common_name: "kubernetes-admin",               organization: MASTERS_GROUP, names: Names::None,      usage: Usage::Client, place: Endpoint("admin.conf"),            holders: Masters },
    LeafRow { name: "controller-manager",       issuer: Clients,    common_name: "system:kube-controller-manager", organization: None,          names: Names::None,      usage: Usage::Client, place: Local("controller-manager.conf"),  holders: Masters },
    LeafRow { name: "scheduler",                issuer: Clients,    common_name: "system:kube-scheduler",          organization: None,          names: Names::None,      usage: Usage::Client, place: Local("scheduler.conf"),           holders: Masters },
    LeafRow { name: KUBELET,                    issuer: Clients,    common_name: "system:node:<host>",             organization: NODES_GROUP,   names: Names::None,      usage: Usage::Client, place: Endpoint("kubelet.conf"),          holders: Everyone },
    // kubelet serves `exec` and `logs` with it, and the apiserver verifies it. kubeadm knows no such file.
    LeafRow { name: "kubelet-server",           issuer: Cluster,    common_name: "system:node:<host>",             organization: NODES_GROUP,   names: Names::Host,      usage: Usage::Server, place: Files("kubelet-server"),           holders: Everyone },
    // A server certificate, which gives no access: a client of the status API needs an
    // administrator's certificate.
    LeafRow { name: "status",                   issuer: Cluster,    common_name: "<host>",                         organization: STATUS_GROUP,  names: Names::Host,      usage: Usage::Server, place: Status,                            holders: Everyone },
];

/// The administrator's certificate: one per master, and one for the output folder's `admin.conf`.
pub const ADMIN: &str = "admin";

/// The kubelet's client certificate. A joining host also discovers the cluster with it.
pub const KUBELET: &str = "kubelet";

/// All inputs of a certificate except the CA: with the same CA, equal specifications share one
/// certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Specification {
    pub issuer: Issuer,
    pub common_name: String,
    pub organization: Option<&'static str>,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub usage: Usage,
    pub validity_days: u32,
}

impl LeafRow {
    /// This row for one host of the plan.
    pub fn specify(&self, plan: &ClusterPlan, host: &HostPlan) -> Specification {
        let (dns, ips) = match self.names {
            Names::None => (Vec::new(), Vec::new()),
            Names::Apiserver => names::apiserver(plan, host),
            Names::Etcd => {
                let mut dns = vec![host.name.clone(), "localhost".to_owned()];
                dns.dedup();
                let mut ips: Vec<IpAddr> = host.ips().collect();
                ips.extend(names::loopback());
                (dns, ips)
            }
            // No loopback addresses: the certificate must be valid for this host only.
            Names::Host => (
                vec![host.name.clone(), plan.fqdn(host)],
                host.ips().collect(),
            ),
        };
        Specification {
            issuer: self.issuer,
            common_name: self.common_name.replace("<host>", &host.name),
            organization: self.organization,
            dns,
            ips,
            usage: self.usage,
            validity_days: validity_days(plan, self.issuer, self.organization),
        }
    }
}

/// The operator's own certificate, for `admin.conf` in the output folder.
pub fn operator(plan: &ClusterPlan) -> Specification {
    Specification {
        issuer: Clients,
        common_name: "kubernetes-admin".to_owned(),
        organization: MASTERS_GROUP,
        dns: Vec::new(),
        ips: Vec::new(),
        usage: Usage::Client,
        validity_days: validity_days(plan, Clients, MASTERS_GROUP),
    }
}

/// etcd's clients have the administrators' group too, as kubeadm makes them, but no apiserver
/// accepts etcd's authority.
fn validity_days(plan: &ClusterPlan, issuer: Issuer, organization: Option<&str>) -> u32 {
    if matches!(issuer, Cluster | Clients) && organization == MASTERS_GROUP {
        plan.admin_days
    } else {
        plan.validity_days
    }
}
