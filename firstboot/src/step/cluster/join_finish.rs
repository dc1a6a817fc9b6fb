//! The last phases of `kubeadm join` on a control-plane host: cluster status, label and taint.

use std::fmt;

use anyhow::Result;
use userdata::image_info::{ImageInfo, KubeadmPhases};

use super::Membership;
use crate::kubeadm::{marker, phases};
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::Root;

#[derive(Debug)]
pub struct JoinFinish {
    root: Root,
    phases: KubeadmPhases,
}

impl JoinFinish {
    pub fn new(root: &Root, image: &ImageInfo) -> Self {
        Self {
            root: root.clone(),
            phases: image.kubeadm_phases.clone(),
        }
    }
}

impl fmt::Display for JoinFinish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kubeadm join: mark the control plane")
    }
}

impl Step for JoinFinish {
    fn name(&self) -> &'static str {
        "join-finish"
    }

    fn is_done(&self) -> Result<bool> {
        Membership::ControlPlane.is_complete(&self.root)
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        phases::join(&self.phases, phases::JOIN_FINISH)?;
        marker::set(&self.root, marker::JOINED)
    }

    fn needs_machine(&self) -> bool {
        true
    }
}
