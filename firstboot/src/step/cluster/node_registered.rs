//! Waits until kubelet has registered this node, and completes the node object.

use std::fmt;

use anyhow::{Result, ensure};
use serde_json::json;
use userdata::image_info::ImageInfo;
use userdata::node_config::NodeConfig;

use super::{Membership, node_address};
use crate::kube::client::Client;
use crate::kubeadm::{marker, paths};
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::Root;
use crate::wait::{Backoff, endpoint, until, until_node_registered};

#[derive(Debug)]
pub struct NodeRegistered {
    root: Root,
    name: String,
    endpoint: String,
    cri_socket: &'static str,
    membership: Membership,
}

impl NodeRegistered {
    pub fn new(
        root: &Root,
        node: &NodeConfig,
        image: &ImageInfo,
        membership: Membership,
    ) -> Result<Self> {
        let address = match membership {
            Membership::Worker => node.apiserver.vip,
            Membership::Initialised | Membership::ControlPlane => node_address(node)?,
        };
        Ok(Self {
            root: root.clone(),
            name: node.name.clone(),
            endpoint: endpoint(address, node.apiserver.port),
            cri_socket: image.runtime.socket(),
            membership,
        })
    }

    /// kubeadm annotates the node in its `kubelet-start` phase of `join`, which gives up after two
    /// minutes.
    fn annotate(&self, client: &Client, report: &mut Reporter) {
        let path = format!("/api/v1/nodes/{}", self.name);
        let annotation = json!({ "metadata": { "annotations": { "kubeadm.alpha.kubernetes.io/cri-socket": self.cri_socket } } });
        let target = format!("node {} at {}", self.name, client.base());
        until(&target, Backoff::new(&self.name), report, || {
            let answer = client.send("PATCH", &path, &annotation)?;
            ensure!(answer.status != 404, "kubelet has not registered it yet");
            answer.ok().map(|_| ())
        });
    }
}

impl fmt::Display for NodeRegistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wait for kubelet to register node {}", self.name)
    }
}

impl Step for NodeRegistered {
    fn name(&self) -> &'static str {
        "node-registered"
    }

    fn is_done(&self) -> Result<bool> {
        self.membership.is_complete(&self.root)
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let kubeconfig = match self.membership {
            Membership::Worker => paths::KUBELET_CONF,
            Membership::Initialised | Membership::ControlPlane => paths::ADMIN_CONF,
        };
        let client = Client::from_kubeconfig(&self.root, kubeconfig, &self.endpoint)?;
        if self.membership != Membership::Initialised {
            self.annotate(&client, report);
        }
        if self.membership == Membership::Worker {
            // A worker has no kubeadm call left: its membership ends here.
            return marker::set(&self.root, marker::JOINED);
        }
        until_node_registered(&client, &self.name, report);
        Ok(())
    }

    /// master0 only waits here; a host that joins also annotates its node object.
    fn is_lasting(&self) -> bool {
        self.membership != Membership::Initialised
    }

    fn needs_machine(&self) -> bool {
        true
    }
}
