//! kubeadm writes the control plane's static pods: all of them on master0, all but etcd's on a host
//! that joins.

use std::fmt;

use anyhow::Result;
use userdata::image_info::{ImageInfo, KubeadmPhases};
use userdata::node_config::NodeConfig;

use super::{Membership, node_address};
use crate::kubeadm::phases;
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::Root;
use crate::wait::endpoint;

#[derive(Debug)]
pub struct StaticPods {
    root: Root,
    endpoint: String,
    phases: KubeadmPhases,
    missing_addons: Vec<String>,
    membership: Membership,
}

impl StaticPods {
    pub fn new(
        root: &Root,
        node: &NodeConfig,
        image: &ImageInfo,
        membership: Membership,
    ) -> Result<Self> {
        Ok(Self {
            root: root.clone(),
            endpoint: endpoint(node_address(node)?, node.apiserver.port),
            phases: image.kubeadm_phases.clone(),
            missing_addons: image.missing_addons.clone(),
            membership,
        })
    }
}

impl fmt::Display for StaticPods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = match self.membership {
            Membership::Initialised => "kubeadm init: kubelet and",
            Membership::ControlPlane | Membership::Worker => "kubeadm join:",
        };
        write!(
            f,
            "{command} static pods of the control plane on {}",
            self.endpoint
        )
    }
}

impl Step for StaticPods {
    fn name(&self) -> &'static str {
        "static-pods"
    }

    fn is_done(&self) -> Result<bool> {
        self.membership.is_complete(&self.root)
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        self.membership.reset(&self.root)?;
        match self.membership {
            Membership::Initialised => {
                report.kubeadm_started();
                phases::init(&self.phases, phases::INIT_STATIC_PODS, &self.missing_addons)
            }
            Membership::ControlPlane | Membership::Worker => {
                phases::join(&self.phases, phases::JOIN_STATIC_PODS)
            }
        }
    }

    fn needs_machine(&self) -> bool {
        true
    }
}
