//! What must be true of a healthy cluster, whatever a test has done to it before.
//!
//! The host sends one request to each control-plane host; the guests run no program for it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::etcd::{Etcd, MemberList};
use crate::cluster::testbed::Testbed;

impl Testbed {
    /// Fails unless all machines run and form one healthy cluster: one etcd with a healthy voting
    /// member on every control-plane host, every node Ready, and no packet to an address outside.
    pub fn assert_healthy(&self) -> Result<()> {
        for member in &self.cluster.members {
            self.vm(&member.name)?;
        }
        self.assert_one_etcd()?;
        let masters = self.running_masters();
        let master = masters
            .first()
            .context("no control-plane host is running")?;
        self.assert_nodes_ready(master)?;
        self.assert_kubeadm_lists_masters(master)?;
        self.cluster.assert_no_packet_left()
    }

    /// Fails unless kubeadm's ClusterStatus lists every control-plane host. kubeadm reads it when
    /// it upgrades or resets a host, and hosts that join at the same time write it at the same
    /// time.
    fn assert_kubeadm_lists_masters(&self, master: &str) -> Result<()> {
        let config = self.get(
            master,
            "/api/v1/namespaces/kube-system/configmaps/kubeadm-config",
        )?;
        let status = config["data"]["ClusterStatus"]
            .as_str()
            .context("kubeadm-config has no ClusterStatus")?;
        let status: Value = serde_yaml::from_str(status)
            .with_context(|| format!("reading kubeadm's ClusterStatus, {status}"))?;
        let found: BTreeSet<_> = status["apiEndpoints"]
            .as_object()
            .context("ClusterStatus has no apiEndpoints")?
            .keys()
            .map(String::as_str)
            .collect();
        let expected: BTreeSet<_> = self
            .cluster
            .masters()
            .map(|master| master.name.as_str())
            .collect();
        ensure!(
            found == expected,
            "kubeadm's ClusterStatus lists {found:?}, the control-plane hosts are {expected:?}"
        );
        Ok(())
    }

    /// Fails unless every running control-plane host has a healthy etcd, and all of them list the
    /// same members: every control-plane host of the topology, running or not.
    pub fn assert_one_etcd(&self) -> Result<()> {
        let expected: BTreeSet<_> = self
            .cluster
            .masters()
            .map(|master| {
                (
                    master.name.clone(),
                    vec![format!("https://{}:2380", master.address)],
                )
            })
            .collect();
        let mut first: Option<MemberList> = None;
        for name in self.running_masters() {
            let etcd = self.etcd(&name)?;
            etcd.check_health()
                .with_context(|| format!("reading the health of etcd on {name}"))?;
            let list = etcd
                .members()
                .with_context(|| format!("listing the members of etcd on {name}"))?;
            let found: BTreeSet<_> = list
                .members
                .iter()
                .map(|member| (member.name.clone(), member.peers.clone()))
                .collect();
            ensure!(
                found == expected,
                "etcd on {name} lists {found:?}, the control-plane hosts are {expected:?}"
            );
            for member in &list.members {
                ensure!(
                    !member.is_learner && !member.clients.is_empty(),
                    "etcd on {name} lists a member that has not started or has no vote: {member:?}"
                );
            }
            match &first {
                None => first = Some(list),
                Some(first) => ensure!(
                    *first == list,
                    "etcd on {name} lists {list:?}, on another host {first:?}"
                ),
            }
        }
        ensure!(first.is_some(), "no control-plane host is running");
        Ok(())
    }

    /// The etcd of a running control-plane host.
    pub fn etcd(&self, name: &str) -> Result<Etcd> {
        Etcd::of(
            &self.host,
            &self.cluster,
            self.member(name)?,
            self.vm(name)?,
            self.run_dir.folder(),
        )
    }

    /// Fails unless the apiserver of `master` lists exactly the topology's hosts as nodes, and the
    /// running ones are Ready. Returns the list.
    pub fn assert_nodes_ready(&self, master: &str) -> Result<Value> {
        let nodes = self.get(master, "/api/v1/nodes")?;
        let items = nodes["items"]
            .as_array()
            .context("the NodeList has no items")?;
        let found: BTreeSet<_> = items
            .iter()
            .filter_map(|node| node["metadata"]["name"].as_str())
            .collect();
        let expected: BTreeSet<_> = self
            .cluster
            .members
            .iter()
            .map(|member| member.name.as_str())
            .collect();
        ensure!(
            found == expected,
            "the nodes are {found:?}, the hosts are {expected:?}"
        );
        for node in items {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            ensure!(
                is_ready(node) || !self.running.contains_key(name),
                "node {name} is not Ready: {}",
                node["status"]["conditions"]
            );
        }
        Ok(nodes)
    }
}

/// Whether a node or pod has the condition Ready.
pub fn is_ready(object: &Value) -> bool {
    object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
