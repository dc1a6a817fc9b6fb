//! Waiting until Kubernetes calls this node Ready, and means this boot.

use std::fmt;

use anyhow::{Context, Result};
use serde_json::Value;
use userdata::node_config::NodeConfig;

use crate::kube::client::Client;
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::Root;
use crate::system::machine;
use crate::wait::{Backoff, endpoint, until_apiserver_ready};

#[derive(Debug)]
pub struct NodeReady {
    root: Root,
    name: String,
    endpoint: String,
    kubeconfig: &'static str,
}

impl NodeReady {
    /// On a master: asks the apiserver of this host as the administrator.
    pub fn on_master(root: &Root, node: &NodeConfig) -> Result<Self> {
        let own = node
            .addresses
            .first()
            .context("the node file has no address")?
            .addr();
        Ok(Self {
            root: root.clone(),
            name: node.name.clone(),
            endpoint: endpoint(own, node.apiserver.port),
            kubeconfig: "/etc/kubernetes/admin.conf",
        })
    }

    /// On a node: asks through the virtual address, as everything else on it does, as its kubelet.
    pub fn on_node(root: &Root, node: &NodeConfig) -> Self {
        Self {
            root: root.clone(),
            name: node.name.clone(),
            endpoint: endpoint(node.apiserver.vip, node.apiserver.port),
            kubeconfig: "/etc/kubernetes/kubelet.conf",
        }
    }
}

impl fmt::Display for NodeReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wait until node {} is Ready", self.name)
    }
}

impl Step for NodeReady {
    fn name(&self) -> &'static str {
        "node-ready"
    }

    /// Never: whether it is Ready now is what the step is there to find out.
    fn is_done(&self) -> Result<bool> {
        Ok(false)
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let client = Client::from_kubeconfig(&self.root, self.kubeconfig, &self.endpoint)?;
        until_apiserver_ready(&client, report);
        let boot = machine::boot_id();
        let target = format!("node {} at {}", self.name, client.base());
        let query = format!("fieldSelector=metadata.name%3D{}", self.name);
        let mut backoff = Backoff::fixed();
        loop {
            let ended = client.watch("/api/v1/nodes", &query, |node| {
                match obstacle(node, boot.as_deref()) {
                    None => Some(()),
                    Some(obstacle) => {
                        report.waiting(&target, &obstacle, backoff.wait());
                        None
                    }
                }
            });
            match ended {
                Ok(Some(())) => return Ok(()),
                // The server's limit for a watch: simply the next one.
                Ok(None) => backoff.count(),
                Err(error) => {
                    report.waiting(&target, &format!("{error:#}"), backoff.wait());
                    backoff.pause();
                }
            }
        }
    }

    fn is_lasting(&self) -> bool {
        false
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

/// Why this node object does not say that the node is Ready in this boot.
///
/// After a restart of the whole cluster the object still says Ready, from before: kubelet's first
/// report of this boot brings the new boot id.
fn obstacle(node: &Value, boot: Option<&str>) -> Option<String> {
    if let Some(boot) = boot
        && node["status"]["nodeInfo"]["bootID"] != boot
    {
        return Some("kubelet has not reported since this boot".to_owned());
    }
    let conditions = node["status"]["conditions"].as_array();
    match conditions.and_then(|all| all.iter().find(|condition| condition["type"] == "Ready")) {
        None => Some("no condition Ready yet".to_owned()),
        Some(ready) if ready["status"] == "True" => None,
        Some(ready) => Some(format!(
            "not Ready: {}",
            ready["message"].as_str().unwrap_or("no reason given")
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ready_counts_only_in_this_boot() {
        let node = |boot: &str, status: &str| {
            json!({"status": {"nodeInfo": {"bootID": boot},
                "conditions": [{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": status, "message": "no CNI"}]}})
        };
        assert_eq!(obstacle(&node("b", "True"), Some("b")), None);
        assert_eq!(
            obstacle(&node("a", "True"), Some("b")).unwrap(),
            "kubelet has not reported since this boot"
        );
        assert_eq!(
            obstacle(&node("b", "False"), Some("b")).unwrap(),
            "not Ready: no CNI"
        );
        assert_eq!(
            obstacle(
                &json!({"status": {"nodeInfo": {"bootID": "b"}, "conditions": []}}),
                Some("b")
            )
            .unwrap(),
            "no condition Ready yet"
        );
    }
}
