//! What must be true of a cluster after whatever was done to it.
//!
//! Each master is asked itself, once, from this host; the guests run no program for it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::etcd::{Etcd, View};
use crate::site::Site;

impl Site {
    /// Fails unless all machines are on and make one whole cluster: one etcd, as many members as masters, each started,
    /// healthy and with a vote; every node Ready; and no packet was sent outside.
    pub fn is_whole(&self) -> Result<()> {
        for member in &self.cluster.members {
            self.vm(&member.name)?;
        }
        self.has_one_etcd()?;
        let masters = self.masters_on();
        let asked = masters.first().context("no master is on")?;
        self.nodes_are_ready(asked)?;
        self.kubeadm_knows_the_masters(asked)?;
        self.cluster.no_packet_left()
    }

    /// Fails unless kubeadm's own list, which it takes for the control plane when it upgrades or resets a host, holds every
    /// master: masters that join side by side write it side by side.
    fn kubeadm_knows_the_masters(&self, asked: &str) -> Result<()> {
        let config = self.get(
            asked,
            "/api/v1/namespaces/kube-system/configmaps/kubeadm-config",
        )?;
        let status = config["data"]["ClusterStatus"]
            .as_str()
            .context("kubeadm-config has no ClusterStatus")?;
        let status: Value = serde_yaml::from_str(status)
            .with_context(|| format!("reading kubeadm's ClusterStatus, {status}"))?;
        let found: BTreeSet<_> = status["apiEndpoints"]
            .as_object()
            .context("a ClusterStatus without apiEndpoints")?
            .keys()
            .map(String::as_str)
            .collect();
        let wanted: BTreeSet<_> = self
            .cluster
            .masters()
            .map(|master| master.name.as_str())
            .collect();
        ensure!(
            found == wanted,
            "kubeadm's ClusterStatus has {found:?}, and the masters are {wanted:?}"
        );
        Ok(())
    }

    /// Fails unless every master that is on knows the same cluster with every master of the topology in it, and is
    /// healthy itself. What is off counts as a member: nobody has removed it.
    pub fn has_one_etcd(&self) -> Result<()> {
        let wanted: BTreeSet<_> = self
            .cluster
            .masters()
            .map(|master| {
                (
                    master.name.clone(),
                    vec![format!("https://{}:2380", master.address)],
                )
            })
            .collect();
        let mut first: Option<View> = None;
        for name in self.masters_on() {
            let etcd = self.etcd(&name)?;
            etcd.is_healthy()
                .with_context(|| format!("asking the etcd of {name} for its health"))?;
            let view = etcd
                .view()
                .with_context(|| format!("asking the etcd of {name} for the members"))?;
            let found: BTreeSet<_> = view
                .members
                .iter()
                .map(|member| (member.name.clone(), member.peers.clone()))
                .collect();
            ensure!(
                found == wanted,
                "the members are {found:?} to {name}, and the masters {wanted:?}"
            );
            for member in &view.members {
                ensure!(
                    !member.is_learner && !member.clients.is_empty(),
                    "to {name}, {member:?} has not started, or has no vote"
                );
            }
            match &first {
                None => first = Some(view),
                Some(first) => ensure!(
                    *first == view,
                    "{name} sees {view:?}, another master {first:?}"
                ),
            }
        }
        ensure!(first.is_some(), "no master is on");
        Ok(())
    }

    /// A master's etcd, which must be on.
    pub fn etcd(&self, name: &str) -> Result<Etcd> {
        Etcd::of(
            &self.host,
            &self.cluster,
            self.member(name)?,
            self.vm(name)?,
            self.run.folder(),
        )
    }

    /// Fails unless the apiserver of `master` has exactly the topology's nodes, and those that are on are Ready.
    pub fn nodes_are_ready(&self, master: &str) -> Result<Value> {
        let nodes = self.get(master, "/api/v1/nodes")?;
        let items = nodes["items"].as_array().context("a list without items")?;
        let found: BTreeSet<_> = items
            .iter()
            .filter_map(|node| node["metadata"]["name"].as_str())
            .collect();
        let wanted: BTreeSet<_> = self
            .cluster
            .members
            .iter()
            .map(|member| member.name.as_str())
            .collect();
        ensure!(
            found == wanted,
            "the nodes are {found:?}, and the hosts {wanted:?}"
        );
        for node in items {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            ensure!(
                is_ready(node) || !self.on.contains_key(name),
                "node {name} is not Ready: {}",
                node["status"]["conditions"]
            );
        }
        Ok(nodes)
    }
}

/// Does a node or a pod say of itself that it is Ready?
pub fn is_ready(object: &Value) -> bool {
    object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
