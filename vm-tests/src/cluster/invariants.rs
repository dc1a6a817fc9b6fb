//! What must be true of a healthy cluster, whatever a test has done to it before.
//!
//! The host sends one request to each control-plane host; the guests run no program for it.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::etcd::{Etcd, MemberList};
use crate::cluster::testbed::Testbed;

/// On machines with KVM.
const SYSTEM_PODS_DEADLINE: Duration = Duration::from_secs(120);
/// The topologies of the tests set a `syncFrequency` of 30 s, which kubelet exceeds by half.
const ETCD_PODS_DEADLINE: Duration = Duration::from_secs(60);

impl Testbed {
    /// Fails unless all machines run and form one healthy cluster: one etcd with a healthy voting
    /// member on every control-plane host, every node Ready, and no packet to an address outside.
    pub fn assert_healthy(&self) -> Result<()> {
        for member in &self.cluster.members {
            self.vm(&member.name)?;
        }
        self.assert_one_etcd()?;
        let masters = self.running_control_plane();
        let master = masters
            .first()
            .context("no control-plane host is running")?;
        self.assert_nodes_ready(master)?;
        self.assert_kubeadm_finds_etcd(master)?;
        self.assert_system_pods_run(master)?;
        self.cluster.assert_no_packet_left()
    }

    /// Waits until kubeadm finds the etcd of every control-plane host, which it asks when it
    /// upgrades or resets one: in annotations of their static pods. The kubelet of master0 retries
    /// what the apiserver refused before it had its priority classes after its `syncFrequency`.
    fn assert_kubeadm_finds_etcd(&self, master: &str) -> Result<()> {
        self.wait_until(master, ETCD_PODS_DEADLINE, || self.check_etcd_pods(master))
    }

    fn check_etcd_pods(&self, master: &str) -> Result<()> {
        let pods = self.get(
            master,
            "/api/v1/namespaces/kube-system/pods?labelSelector=component%3Detcd",
        )?;
        let found: BTreeSet<_> = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pod| {
                pod["metadata"]["annotations"]["kubeadm.kubernetes.io/etcd.advertise-client-urls"]
                    .as_str()
            })
            .map(str::to_owned)
            .collect();
        let expected: BTreeSet<_> = self
            .cluster
            .control_plane()
            .map(|master| format!("https://{}", master.endpoint(2379)))
            .collect();
        ensure!(
            found == expected,
            "the static pods of etcd name {found:?}, the control-plane hosts are {expected:?}"
        );
        Ok(())
    }

    /// Waits until the pod network, DNS and kube-proxy run: every DaemonSet on every host, and
    /// every Deployment, outside the namespace `default`. A node is Ready a little before its pods
    /// are.
    fn assert_system_pods_run(&self, master: &str) -> Result<()> {
        self.wait_until(master, SYSTEM_PODS_DEADLINE, || {
            self.check_system_pods(master)
        })
    }

    fn wait_until(
        &self,
        master: &str,
        guest: Duration,
        check: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let end = Instant::now() + self.vm(master)?.wall(guest);
        loop {
            match check() {
                Err(_) if Instant::now() < end => thread::sleep(Duration::from_secs(2)),
                result => return result,
            }
        }
    }

    fn check_system_pods(&self, master: &str) -> Result<()> {
        for (path, wanted, ready) in [
            (
                "/apis/apps/v1/daemonsets",
                "desiredNumberScheduled",
                "numberReady",
            ),
            ("/apis/apps/v1/deployments", "replicas", "readyReplicas"),
        ] {
            let list = self.get(master, path)?;
            for object in list["items"].as_array().into_iter().flatten() {
                if object["metadata"]["namespace"] == "default" {
                    continue;
                }
                let status = &object["status"];
                ensure!(
                    status[wanted].as_u64() > Some(0) && status[wanted] == status[ready],
                    "{} is not Ready: {status}",
                    object["metadata"]["name"]
                );
            }
        }
        Ok(())
    }

    /// Fails unless every running control-plane host has a healthy etcd, and all of them list the
    /// same members: every control-plane host of the topology, running or not.
    pub fn assert_one_etcd(&self) -> Result<()> {
        let expected: BTreeSet<_> = self
            .cluster
            .control_plane()
            .map(|master| {
                (
                    master.name.clone(),
                    vec![format!("https://{}", master.endpoint(2380))],
                )
            })
            .collect();
        let mut first: Option<MemberList> = None;
        for name in self.running_control_plane() {
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
