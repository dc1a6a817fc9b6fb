//! Waiting, on the first boot of master0, until what makes a cluster usable runs: the pod network,
//! DNS, kube-proxy.
//!
//! A Ready node is not enough: kubelet reports it as soon as a CNI configuration file exists,
//! whether or not pods get an address.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::Result;
use serde_json::Value;
use userdata::node_config::NodeConfig;

use super::node_address;
use crate::kube::client::Client;
use crate::kubeadm::paths;
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::{Attributes, Root};
use crate::wait::{Backoff, endpoint};

/// Later boots do not wait: a pod that an administrator broke must not hold the boot.
const SEEN: &str = "/var/lib/firstlight/system-pods-ready";

#[derive(Debug)]
pub struct SystemPods {
    root: Root,
    name: String,
    endpoint: String,
}

impl SystemPods {
    pub fn new(root: &Root, node: &NodeConfig) -> Result<Self> {
        Ok(Self {
            root: root.clone(),
            name: node.name.clone(),
            endpoint: endpoint(node_address(node)?, node.apiserver.port),
        })
    }
}

impl fmt::Display for SystemPods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wait until the system pods on {} are Ready", self.name)
    }
}

impl Step for SystemPods {
    fn name(&self) -> &'static str {
        "system-pods"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(self.root.exists(SEEN))
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let client = Client::from_kubeconfig(&self.root, paths::ADMIN_CONF, &self.endpoint)?;
        let target = format!("system pods at {}", client.base());
        let mut backoff = Backoff::fixed();
        loop {
            let obstacle = match Cluster::read(&client) {
                Ok(cluster) => cluster.obstacle(&self.name),
                Err(error) => Some(format!("{error:#}")),
            };
            let Some(obstacle) = obstacle else { break };
            report.waiting(&target, &obstacle, backoff.wait());
            backoff.pause();
        }
        report.wait_finished();
        self.root.write(SEEN, b"", Attributes::mode(0o600))?;
        Ok(())
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

/// What runs in the cluster.
struct Cluster {
    daemon_sets: Vec<Value>,
    deployments: Vec<Value>,
    pods: Vec<Value>,
}

impl Cluster {
    fn read(client: &Client) -> Result<Self> {
        let items = |path: &str| -> Result<Vec<Value>> {
            let list = client.get(path)?.ok()?;
            Ok(list["items"].as_array().cloned().unwrap_or_default())
        };
        Ok(Self {
            daemon_sets: items("/apis/apps/v1/daemonsets")?,
            deployments: items("/apis/apps/v1/namespaces/kube-system/deployments")?,
            pods: items("/api/v1/pods")?,
        })
    }

    /// What is not Ready: in kube-system, and in each namespace with a DaemonSet, which is where
    /// pod networks live. Pods count when they are on `node`; a Deployment's one available pod is
    /// enough.
    fn obstacle(&self, node: &str) -> Option<String> {
        let mut namespaces = BTreeSet::from(["kube-system"]);
        for set in &self.daemon_sets {
            namespaces.extend(set["metadata"]["namespace"].as_str());
            // Its controller has not looked at it, or a master's taint keeps it away from here.
            if set["status"]["observedGeneration"].is_null() {
                return Some(format!("DaemonSet {}: no pod yet", path(set)));
            }
            let wanted = set["status"]["desiredNumberScheduled"].as_u64();
            if wanted > Some(0) && set["status"]["numberReady"].as_u64().unwrap_or(0) == 0 {
                return Some(format!("DaemonSet {}: no pod is Ready", path(set)));
            }
        }
        for deployment in &self.deployments {
            if deployment["status"]["availableReplicas"]
                .as_u64()
                .unwrap_or(0)
                == 0
            {
                return Some(format!(
                    "Deployment {}: no pod is available",
                    path(deployment)
                ));
            }
        }
        self.pods
            .iter()
            .filter(|pod| pod["spec"]["nodeName"] == node)
            .filter(|pod| {
                pod["metadata"]["namespace"]
                    .as_str()
                    .is_some_and(|namespace| namespaces.contains(namespace))
            })
            .find_map(unready)
    }
}

/// Why a pod is not Ready; a pod that ended well needs not be.
fn unready(pod: &Value) -> Option<String> {
    let status = &pod["status"];
    if status["phase"] == "Succeeded" {
        return None;
    }
    let conditions = status["conditions"].as_array();
    let ready = conditions.is_some_and(|all| {
        all.iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    });
    if ready {
        return None;
    }
    let reason = ["initContainerStatuses", "containerStatuses"]
        .iter()
        .filter_map(|key| status[*key].as_array())
        .flatten()
        .find_map(|container| container["state"]["waiting"]["reason"].as_str());
    let why = match (reason, status["phase"].as_str()) {
        (Some(reason), _) => reason.to_owned(),
        (None, phase) => format!("{}, not Ready", phase.unwrap_or("Pending")),
    };
    Some(format!("pod {}: {why}", path(pod)))
}

/// `kube-system/coredns`.
fn path(object: &Value) -> String {
    let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}", part("namespace"), part("name"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster() -> Cluster {
        let ready = json!([{ "type": "Ready", "status": "True" }]);
        Cluster {
            daemon_sets: vec![json!({
                "metadata": { "namespace": "kube-flannel", "name": "kube-flannel-ds" },
                "status": { "observedGeneration": 1, "desiredNumberScheduled": 1, "numberReady": 1 },
            })],
            deployments: vec![json!({
                "metadata": { "namespace": "kube-system", "name": "coredns" },
                "status": { "availableReplicas": 2 },
            })],
            pods: vec![
                json!({
                    "metadata": { "namespace": "kube-flannel", "name": "kube-flannel-ds-x" },
                    "spec": { "nodeName": "m0" },
                    "status": { "phase": "Running", "conditions": ready },
                }),
                json!({
                    "metadata": { "namespace": "shop", "name": "broken" },
                    "spec": { "nodeName": "m0" },
                    "status": { "phase": "Pending" },
                }),
            ],
        }
    }

    #[test]
    fn running_system_pods_are_enough() {
        assert_eq!(cluster().obstacle("m0"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut one = cluster();
        one.daemon_sets[0]["status"]["numberReady"] = json!(0);
        assert_eq!(
            one.obstacle("m0").unwrap(),
            "DaemonSet kube-flannel/kube-flannel-ds: no pod is Ready"
        );
        let mut one = cluster();
        one.deployments[0]["status"] = json!({});
        assert_eq!(
            one.obstacle("m0").unwrap(),
            "Deployment kube-system/coredns: no pod is available"
        );
        let mut one = cluster();
        one.pods[0]["status"] = json!({
            "phase": "Pending",
            "initContainerStatuses": [{ "state": { "waiting": { "reason": "ErrImageNeverPull" } } }],
        });
        assert_eq!(
            one.obstacle("m0").unwrap(),
            "pod kube-flannel/kube-flannel-ds-x: ErrImageNeverPull"
        );
        assert_eq!(one.obstacle("n0"), None);
        one.pods[0]["status"] = json!({ "phase": "Running", "conditions": [] });
        assert_eq!(
            one.obstacle("m0").unwrap(),
            "pod kube-flannel/kube-flannel-ds-x: Running, not Ready"
        );
    }
}
