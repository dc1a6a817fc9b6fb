//! Hooks of the package, before and after the steps of the role.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use userdata::contract::HOOKS_DIR;
use userdata::image_info::ImageInfo;
use userdata::node_config::NodeConfig;

use super::Step;
use crate::applied::digest;
use crate::kubeadm::config;
use crate::report::Reporter;
use crate::system::command;
use crate::system::files::{Attributes, Root};

/// A hook that runs longer has failed: a hung one must not stop a boot without a word.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// One hook in the read-only root. It must be safe to run again: a power cut may end it anywhere.
#[derive(Debug)]
pub struct Hook {
    root: Root,
    /// Step and file name: `before-role`, `after-role`.
    name: &'static str,
    /// Of the hook and of the files in folders beside it, which it may use.
    digest: String,
    variables: Vec<(&'static str, String)>,
    limit: Duration,
}

impl Hook {
    /// `None` when the package has no such hook.
    pub fn find(
        root: &Root,
        name: &'static str,
        node: &NodeConfig,
        image: &ImageInfo,
    ) -> Result<Option<Self>> {
        let path = format!("{HOOKS_DIR}/{name}");
        if !root.exists(&path) {
            return Ok(None);
        }
        let mut parts = vec![root.read(&path)?.unwrap_or_default()];
        for beside in root.list(HOOKS_DIR)? {
            let folder = format!("{HOOKS_DIR}/{beside}");
            if root.join(&folder).is_dir() {
                collect(root, &folder, &mut parts)?;
            }
        }
        Ok(Some(Self {
            root: root.clone(),
            name,
            digest: digest(parts.iter().map(Vec::as_slice)),
            variables: vec![
                ("FIRSTLIGHT_ROLE", node.role.as_str().to_owned()),
                ("FIRSTLIGHT_NAME", node.name.clone()),
                ("FIRSTLIGHT_CLUSTER", node.cluster.clone()),
                ("FIRSTLIGHT_ADDRESS", config::node_ip(node)?),
                ("FIRSTLIGHT_KUBERNETES", image.kubernetes_version.clone()),
                ("FIRSTLIGHT_CRI_SOCKET", image.runtime.socket().to_owned()),
            ],
            limit: LIMIT,
        }))
    }

    fn mark(&self) -> String {
        format!("/var/lib/firstlight/hook-{}", self.name)
    }
}

/// Names and contents of all files below `folder`.
fn collect(root: &Root, folder: &str, parts: &mut Vec<Vec<u8>>) -> Result<()> {
    for name in root.list(folder)? {
        let path = format!("{folder}/{name}");
        if root.join(&path).is_dir() {
            collect(root, &path, parts)?;
        } else {
            parts.push(path.clone().into_bytes());
            parts.push(root.read(&path)?.unwrap_or_default());
        }
    }
    Ok(())
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run the package's hook `{}`", self.name)
    }
}

impl Step for Hook {
    fn name(&self) -> &'static str {
        self.name
    }

    /// A hook that changed, with a new image, runs again.
    fn is_done(&self) -> Result<bool> {
        Ok(self.root.read(self.mark())?.as_deref() == Some(self.digest.as_bytes()))
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        let path = self.root.join(format!("{HOOKS_DIR}/{}", self.name));
        let shown = format!("hooks/{}", self.name);
        command::run_limited(&shown, &path, &self.variables, self.limit)
            .with_context(|| format!("running the package's hook `{}`", self.name))?;
        self.root
            .write(self.mark(), self.digest.as_bytes(), Attributes::mode(0o600))?;
        Ok(())
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

#[cfg(test)]
#[path = "hooks_tests.rs"]
mod tests;
