//! `kubeadm join` up to a running kubelet.

use std::fmt;

use anyhow::Result;
use userdata::image_info::ImageInfo;
use userdata::node_config::NodeConfig;

use super::Membership;
use super::etcd_member::EtcdMember;
use super::ipvs::Ipvs;
use super::joiner::Joiner;
use crate::host::Host;
use crate::kube::client::Client;
use crate::kubeadm::{marker, paths, phases};
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::Root;
use crate::system::systemd;
use crate::wait::endpoint;

/// A worker's kubelet.
#[derive(Debug)]
pub struct WorkerKubelet {
    joiner: Joiner,
    ipvs: Ipvs,
    /// The virtual IP, through which every client on a worker reaches the apiserver.
    endpoint: String,
}

impl WorkerKubelet {
    pub fn new(root: &Root, node: &NodeConfig, image: &ImageInfo) -> Result<Self> {
        Ok(Self {
            joiner: Joiner::new(root, node, image)?,
            ipvs: Ipvs::new(node)?,
            endpoint: endpoint(node.apiserver.vip, node.apiserver.port),
        })
    }
}

impl fmt::Display for WorkerKubelet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kubeadm join: configure and start kubelet, through {}",
            self.endpoint
        )
    }
}

impl Step for WorkerKubelet {
    fn name(&self) -> &'static str {
        "kubelet-start"
    }

    fn is_done(&self) -> Result<bool> {
        Membership::Worker.is_complete(&self.joiner.root)
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let joiner = &self.joiner;
        Membership::Worker.reset(&joiner.root)?;
        let connect = |report: &mut Reporter| {
            joiner.wait_for_master(paths::KUBELET_CONF, report)?;
            // At boot no real server may have answered; now one does, and dead ones are out of the
            // table.
            self.ipvs.set_up()?;
            Client::from_kubeconfig(&joiner.root, paths::KUBELET_CONF, &self.endpoint)
        };
        joiner.configure_kubelet(&connect, &[], report)
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

/// The kubelet of a control-plane host that joins, with its certificates and kubeconfigs.
#[derive(Debug)]
pub struct ControlPlaneKubelet(EtcdMember);

impl ControlPlaneKubelet {
    pub fn new(root: &Root, host: &Host, node: &NodeConfig, image: &ImageInfo) -> Result<Self> {
        EtcdMember::new(root, host, node, image).map(Self)
    }
}

impl fmt::Display for ControlPlaneKubelet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kubeadm join: certificates, kubeconfigs and kubelet")
    }
}

impl Step for ControlPlaneKubelet {
    fn name(&self) -> &'static str {
        "kubelet-start"
    }

    fn is_done(&self) -> Result<bool> {
        Membership::ControlPlane.is_complete(self.0.root())
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let member = &self.0;
        Membership::ControlPlane.reset(member.root())?;
        if marker::is_set(member.root(), marker::ETCD_VOTES)? && member.joiner.is_configured()? {
            // Without this member the others may lack quorum, and then none is ready: start first,
            // then wait.
            systemd::start("kubelet.service")?;
        } else if !systemd::is_active("kubelet.service")? {
            // From a try that was interrupted before it voted: kubelet, started below, must not run
            // it.
            member.root().remove(paths::manifest("etcd"))?;
        }
        member.joiner.configure_kubelet(
            &|report| member.find_apiserver(report),
            phases::JOIN_KUBELET,
            report,
        )
    }

    fn needs_machine(&self) -> bool {
        true
    }
}
