//! The file that kubeadm reads, made on this host from the package's base and the document.

use std::fmt;

use anyhow::{Context, Result};
use userdata::contract::CONF_DIR;
use userdata::image_info::ImageInfo;
use userdata::node_config::NodeConfig;

use crate::kube::documents;
use crate::kubeadm::config;
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::{Attributes, Root};

/// Not below `/etc/kubernetes`: firstboot owns it and rewrites it when document or image change.
pub const PATH: &str = "/var/lib/firstlight/kubeadm.yaml";

#[derive(Debug)]
pub struct KubeadmConfig {
    root: Root,
    text: String,
}

impl KubeadmConfig {
    /// Makes the text at once: a base that cannot be completed is found before the first change to
    /// the host.
    pub fn new(root: &Root, node: &NodeConfig, image: &ImageInfo) -> Result<Self> {
        let path = format!("{CONF_DIR}/kubeadm.yaml");
        let base = match root.read(&path)? {
            Some(bytes) => documents::parse(
                &path,
                &String::from_utf8(bytes).with_context(|| format!("reading `{path}`"))?,
            )?,
            None => Vec::new(),
        };
        let documents =
            config::kubeadm(node, image, base).with_context(|| format!("completing `{path}`"))?;
        Ok(Self {
            root: root.clone(),
            text: documents::to_text(&documents),
        })
    }

    /// What would be written, for a step that needs kubeadm to read something else than this host's
    /// own.
    pub fn into_text(self) -> String {
        self.text
    }
}

impl fmt::Display for KubeadmConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write kubeadm's and kubelet's configuration")
    }
}

impl Step for KubeadmConfig {
    fn name(&self) -> &'static str {
        "kubeadm-config"
    }

    fn is_done(&self) -> Result<bool> {
        self.root
            .holds(PATH, self.text.as_bytes(), Attributes::mode(0o600))
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        self.root
            .write(PATH, self.text.as_bytes(), Attributes::mode(0o600))?;
        Ok(())
    }
}
