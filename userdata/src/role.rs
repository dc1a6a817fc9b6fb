//! The three roles of a host, and the steps that `firstboot` takes in each.
//!
//! This list is the only one: `firstboot` tests its plan against it and `imagegen plan` prints it.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs `kubeadm init`.
    Master0,
    /// Joins the control plane.
    Master,
    /// Joins as a worker.
    Node,
}

impl Role {
    /// The steps of this role, in order, after those of [`MACHINE_STEPS`].
    pub fn steps(self) -> &'static [StepInfo] {
        match self {
            Self::Master0 => MASTER0_STEPS,
            Self::Master => MASTER_STEPS,
            Self::Node => NODE_STEPS,
        }
    }

    /// The word that topologies, documents and status tables use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master0 => "master0",
            Self::Master => "master",
            Self::Node => "node",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One step as a reader sees it before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepInfo {
    /// Stable name in the journal, the status and the receipt.
    pub name: &'static str,
    /// One line in the imperative.
    pub summary: &'static str,
}

const fn step(name: &'static str, summary: &'static str) -> StepInfo {
    StepInfo { name, summary }
}

/// Steps that any `#cloud-config` may ask for; each appears only when the document needs it.
pub const MACHINE_STEPS: &[StepInfo] = &[
    step("hostname", "set the hostname"),
    step("network", "write the systemd-networkd configuration"),
    step("addresses", "configure links, addresses and routes now"),
    step("users", "create users and SSH keys, enable ssh.service"),
    step("ntp", "set the NTP servers"),
    step("timezone", "set the time zone"),
    step("locale", "set the locale"),
    step("files", "write the document's files"),
    step(
        "recovery-key",
        "enrol the recovery key of the encrypted state",
    ),
    step("hosts", "write /etc/hosts"),
    step("ca-certs", "add certificate authorities"),
    step("mounts", "mount the document's file systems"),
    step("ssh", "start ssh.service"),
    step("bootcmd", "run the document's boot commands"),
    step("scripts", "run the scripts in /var/lib/cloud/scripts"),
    step("runcmd", "run the document's commands once"),
];

/// Steps that any `#cloud-config` may ask for, after those of the role.
pub const LAST_STEPS: &[StepInfo] = &[
    step(
        "kubelet",
        "start kubelet.service on a host without a role that a command configured with kubeadm",
    ),
    step("phone-home", "report that the host is configured"),
    step("final-message", "show the document's final message"),
    step("power-state", "halt, power off or reboot, once"),
];

const MASTER0_STEPS: &[StepInfo] = &[
    step("kernel", "load kernel modules and set sysctls"),
    step("runtime", "start the container runtime"),
    step("kubeadm-config", "write the kubeadm configuration"),
    step("node-ip", "update the node IP if it changed"),
    step(
        "init-guard",
        "refuse to initialise beside a running cluster",
    ),
    step("static-pods", "run kubeadm init: kubelet and static pods"),
    step(
        "client-authority",
        "let the control plane use the authorities of clients",
    ),
    step("apiserver-ready", "wait for the local apiserver"),
    step("node-registered", "wait for kubelet to register the node"),
    step(
        "init-finish",
        "run kubeadm init: upload configuration, mark the control plane, add-ons",
    ),
    step(
        "credentials",
        "restart programs whose kubeconfig has changed",
    ),
    step("kubelet", "start kubelet.service"),
    step("manifests", "apply the package's manifests"),
    step("node-ready", "wait until the node is Ready"),
    step(
        "accepted-clients",
        "wait until the apiserver accepts the document's clients only",
    ),
    step(
        "system-pods",
        "wait until the pod network, DNS and the other system pods are Ready",
    ),
];

const MASTER_STEPS: &[StepInfo] = &[
    step("kernel", "load kernel modules and set sysctls"),
    step("runtime", "start the container runtime"),
    step("kubeadm-config", "write the kubeadm configuration"),
    step("node-ip", "update the node IP if it changed"),
    step(
        "kubelet-start",
        "run kubeadm join: certificates, kubeconfigs and kubelet",
    ),
    step(
        "etcd-member",
        "join etcd as a learner under the join lock, then become a voting member",
    ),
    step(
        "static-pods",
        "run kubeadm join: static pods of the control plane",
    ),
    step(
        "client-authority",
        "let the control plane use the authorities of clients",
    ),
    step("apiserver-ready", "wait for the local apiserver"),
    step(
        "domain-local",
        "resolve the apiserver's domain to this host",
    ),
    step("node-registered", "wait for kubelet to register the node"),
    step("join-finish", "run kubeadm join: mark the control plane"),
    step(
        "credentials",
        "restart programs whose kubeconfig has changed",
    ),
    step("kubelet", "start kubelet.service"),
    step("node-ready", "wait until the node is Ready"),
    step(
        "accepted-clients",
        "wait until the apiserver accepts the document's clients only",
    ),
];

const NODE_STEPS: &[StepInfo] = &[
    step("kernel", "load kernel modules and set sysctls"),
    step("runtime", "start the container runtime"),
    step("ipvs", "program the IPVS service for the virtual IP"),
    step("kubeadm-config", "write the kubeadm configuration"),
    step("lvscare", "install the lvscare static pod"),
    step("node-ip", "update the node IP if it changed"),
    step(
        "kubelet-start",
        "run kubeadm join: configure and start kubelet",
    ),
    step("node-registered", "wait for kubelet to register the node"),
    step(
        "credentials",
        "restart programs whose kubeconfig has changed",
    ),
    step("kubelet", "start kubelet.service"),
    step("node-ready", "wait until the node is Ready"),
];
