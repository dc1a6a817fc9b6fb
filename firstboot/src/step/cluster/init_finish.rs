//! The phases of `kubeadm init` that need an apiserver: configuration, control-plane label and taint, add-ons.

use std::fmt;

use anyhow::Result;
use userdata::image_info::ImageInfo;

use super::Membership;
use crate::kubeadm::{marker, phases};
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::Root;

#[derive(Debug)]
pub struct InitFinish {
    root: Root,
    missing_addons: Vec<String>,
}

impl InitFinish {
    pub fn new(root: &Root, image: &ImageInfo) -> Self {
        Self {
            root: root.clone(),
            missing_addons: image.missing_addons.clone(),
        }
    }
}

impl fmt::Display for InitFinish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kubeadm init: upload configuration, mark the control plane, add-ons"
        )
    }
}

impl Step for InitFinish {
    fn name(&self) -> &'static str {
        "init-finish"
    }

    fn is_done(&self) -> Result<bool> {
        Membership::Initialised.is_complete(&self.root)
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        phases::init(phases::INIT_FINISH, &self.missing_addons)?;
        marker::set(&self.root, marker::INITIALISED)
    }

    fn needs_machine(&self) -> bool {
        true
    }
}
