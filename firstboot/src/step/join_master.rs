//! A master joins the control plane: its etcd in turn, as a learner first, and with a way back at every moment.
//!
//! kubeadm does what it does well in calls of its own phases, but not etcd: kubeadm 1.20 adds a member that votes before
//! it has started, and from one member to two a power cut then stops the cluster for good. Here the member is added as a
//! learner, started from a manifest of kubeadm's (`init phase etcd local`, with the other members as arguments, which
//! needs no apiserver), and gets its vote when it has caught up, by its own word. Only then come the apiserver and the
//! rest: they cost a slow machine much, and could not serve before.

use std::fmt;
use std::fs;

use anyhow::{Context, Result, ensure};
use userdata::image_info::ImageInfo;
use userdata::node_config::{Master, NodeConfig, Role};

use super::hosts::hosts_file_with;
use super::init::{endpoint, wait_for_apiserver};
use super::join::{Backoff, Joiner, kubeadm_join, wait};
use super::kubeadm_config::KubeadmConfig;
use super::{Step, mark};
use crate::document::Host;
use crate::kube::client::Client;
use crate::kube::etcd::{self, Etcd, Member, Verdict, verdict};
use crate::kube::learner::Learner;
use crate::kube::lease;
use crate::report::Reporter;
use crate::system::files::{Attributes, Root};
use crate::system::{command, machine, systemd};

const ADMIN: &str = "/etc/kubernetes/admin.conf";
const MANIFESTS: &str = "/etc/kubernetes/manifests";
const ETCD_DATA: &str = "/var/lib/etcd";
const ETCD_ASIDE: &str = "/var/lib/firstlight/etcd-unfinished";
const ETCD_CONFIG: &str = "/var/lib/firstlight/kubeadm-etcd.yaml";
pub(super) const ETCD_CLIENT_PORT: u16 = 2379;
pub(super) const ETCD_PEER_PORT: u16 = 2380;
/// Our etcd has a vote, or is about to get it: from now on the cluster may need its data.
const VOTES_MARK: &str = "/var/lib/firstlight/etcd-votes";

/// Certificates, kubeconfigs, kubelet.
const SKIPPED_FIRST: &[&str] = &[
    "control-plane-prepare/control-plane",
    "check-etcd",
    "control-plane-join",
];
/// The static pods of the control plane.
const SKIPPED_SECOND: &[&str] = &[
    "control-plane-prepare/download-certs",
    "control-plane-prepare/certs",
    "control-plane-prepare/kubeconfig",
    "check-etcd",
    "kubelet-start",
    "control-plane-join",
];
/// Its entry among the masters, its label and taint. etcd's part was ours.
const SKIPPED_THIRD: &[&str] = &[
    "control-plane-prepare",
    "check-etcd",
    "kubelet-start",
    "control-plane-join/etcd",
];

#[derive(Debug)]
pub struct JoinControlPlane {
    joiner: Joiner,
    node: NodeConfig,
    image: ImageInfo,
    endpoint: String,
    own: Master,
    /// The host table when joined, and while joining by way of each other master.
    hosts: String,
    hosts_by: Vec<String>,
}

impl JoinControlPlane {
    pub fn new(root: &Root, host: &Host, node: &NodeConfig, image: &ImageInfo) -> Result<Self> {
        let address = node
            .addresses
            .first()
            .context("the node file has no address")?
            .addr();
        let joiner = Joiner::new(root, node, image)?;
        let hosts_by = joiner
            .others
            .iter()
            .map(|(master, _)| hosts_file_with(host, Some(master.address)));
        let join = Self {
            endpoint: endpoint(address, node.apiserver.port),
            own: Master {
                name: node.name.clone(),
                address,
            },
            hosts: hosts_file_with(host, Some(address)),
            hosts_by: hosts_by.collect(),
            node: node.clone(),
            image: image.clone(),
            joiner,
        };
        // A configuration that cannot be made is found before the first change.
        join.etcd_config(&[])?;
        Ok(join)
    }

    fn root(&self) -> &Root {
        &self.joiner.root
    }

    fn peer(&self) -> String {
        format!("https://{}", endpoint(self.own.address, ETCD_PEER_PORT))
    }

    /// A master that is ready; the apiserver's domain leads there from now on.
    fn find_master(&self, report: &mut Reporter) -> Result<Client> {
        let (master, client) = self.joiner.wait_for_master(ADMIN, report)?;
        let at = self
            .joiner
            .others
            .iter()
            .position(|(other, _)| other == master);
        if let Some(text) = at.and_then(|at| self.hosts_by.get(at)) {
            self.root()
                .write("/etc/hosts", text.as_bytes(), Attributes::mode(0o644))?;
        }
        Ok(client)
    }

    /// The first other etcd that answers with the members, or what each said.
    fn ask_etcd(&self) -> Result<(Etcd, Vec<Member>)> {
        let mut answers = Vec::new();
        for (master, _) in &self.joiner.others {
            let etcd = Etcd::new(self.root(), &endpoint(master.address, ETCD_CLIENT_PORT))?;
            match etcd.members() {
                Ok(members) => return Ok((etcd, members)),
                Err(error) => {
                    answers.push(format!("{} ({}) says {error:#}", master.name, etcd.base()));
                }
            }
        }
        anyhow::bail!("{}", answers.join("; "))
    }

    /// kubelet registers before it has measured its disk, and until it has told so it rejects etcd's pod, which asks for
    /// some of it; a rejected static pod is not tried again (`predicate.go`, `pod_workers.go` of 1.20).
    fn wait_for_capacity(&self, report: &mut Reporter) -> Result<()> {
        let client = self.find_master(report)?;
        let path = format!("/api/v1/nodes/{}", self.own.name);
        let target = format!("node {} at {}", self.own.name, client.base());
        wait(&target, &self.own.name, report, || {
            let node = client.get(&path)?.ok()?;
            let measured = node["status"]["allocatable"]["ephemeral-storage"].is_string();
            ensure!(
                measured,
                "registered, but kubelet has not measured its disk yet"
            );
            Ok(())
        });
        Ok(())
    }

    /// Until this host's etcd has a vote.
    fn join_etcd(&self, report: &mut Reporter) -> Result<()> {
        let mut backoff = Backoff::new(&self.own.name);
        let others: Vec<_> = self
            .joiner
            .others
            .iter()
            .map(|(master, _)| endpoint(master.address, ETCD_CLIENT_PORT))
            .collect();
        let target = format!("its vote among the etcd members, by {}", others.join(", "));
        let mut learner = Learner::default();
        loop {
            let why = match self.join_etcd_once(&mut learner) {
                Ok(None) => {
                    report.waited();
                    return Ok(());
                }
                Ok(Some(why)) => why,
                Err(error) => format!("{error:#}"),
            };
            report.waiting(&target, &why, backoff.wait());
            backoff.pause();
        }
    }

    /// One look at the members and the one thing to do about it. `None`: our member votes. Else what is waited for.
    fn join_etcd_once(&self, learner: &mut Learner) -> Result<Option<String>> {
        let (etcd, members) = self.ask_etcd()?;
        let peer = self.peer();
        let own = members.iter().find(|member| member.peers.contains(&peer));
        let healthy = etcd::healthy(self.root(), &members)?;
        let running = machine::is_running("etcd")?;
        // A learner that was given its vote while the answer got lost runs here, and its data is as good as marked.
        let data = mark::is_set(self.root(), VOTES_MARK)?
            || (running && own.is_some_and(|own| !own.name.is_empty()));
        match verdict(&members, &peer, &healthy, running || learner.added, data) {
            Verdict::Wait(why) => Ok(Some(why)),
            Verdict::Remove(id) => {
                log::warn!(
                    "removing member {id} ({peer}) from etcd: it is from a try that did not come to an end"
                );
                self.clear()?;
                etcd.remove(&id)?;
                Ok(Some("its earlier member has just been removed".to_owned()))
            }
            Verdict::Join => {
                self.clear()?;
                etcd.add_learner(&peer)?;
                learner.added = true;
                self.start_etcd(&members)?;
                Ok(Some(
                    "its member has just been added as a learner".to_owned(),
                ))
            }
            Verdict::Resume => {
                let own = own.context("the member to go on with is gone")?;
                if !self.has_etcd_manifest() {
                    // Cut off, or failed, between adding the member and starting it.
                    self.start_etcd(&members)?;
                }
                if own.name.is_empty() {
                    return Ok(Some("its own member has not started yet".to_owned()));
                }
                let local = Etcd::new(self.root(), &endpoint(self.own.address, ETCD_CLIENT_PORT))?;
                let committed = etcd.progress()?.committed;
                let applied = local.progress()?.applied;
                if !learner.has_caught_up(committed, applied) {
                    return Ok(Some(format!(
                        "its own member is at entry {applied} of {committed} of their log"
                    )));
                }
                // Before, and not after: after a power cut in between, a member that votes would be taken for one that
                // has nothing to lose.
                mark::set(self.root(), VOTES_MARK)?;
                match etcd.promote(&own.id) {
                    Ok(()) => Ok(None),
                    Err(error) => Ok(Some(format!("its own member has no vote yet: {error:#}"))),
                }
            }
            Verdict::Joined => {
                if !self.has_etcd_manifest() {
                    self.start_etcd(&members)?;
                }
                Ok(None)
            }
        }
    }

    fn has_etcd_manifest(&self) -> bool {
        self.root().exists(format!("{MANIFESTS}/etcd.yaml"))
    }

    /// Nothing of an earlier try is left: neither the manifest by which kubelet would start it, nor its data.
    fn clear(&self) -> Result<()> {
        // A mark here means data that voted, of a member the cluster no longer has. Aside, not away.
        self.root().remove(format!("{MANIFESTS}/etcd.yaml"))?;
        if machine::is_running("etcd")? {
            anyhow::bail!("etcd of an earlier try still runs here; kubelet is about to stop it");
        }
        if !self.root().list(ETCD_DATA)?.is_empty() {
            log::warn!(
                "`{ETCD_DATA}` is of no member of this cluster, moving it to `{ETCD_ASIDE}`"
            );
            self.root().remove_tree(ETCD_ASIDE)?;
            let (from, to) = (self.root().join(ETCD_DATA), self.root().join(ETCD_ASIDE));
            fs::rename(&from, &to)
                .with_context(|| format!("moving `{}` to `{}`", from.display(), to.display()))?;
        }
        self.root().remove(VOTES_MARK)
    }

    /// kubeadm's manifest, for a member of a cluster that exists.
    fn start_etcd(&self, others: &[Member]) -> Result<()> {
        let text = self.etcd_config(others)?;
        self.root()
            .write(ETCD_CONFIG, text.as_bytes(), Attributes::mode(0o600))?;
        let config = format!("--config={ETCD_CONFIG}");
        command::run("kubeadm", &["init", "phase", "etcd", "local", &config])
    }

    /// What `kubeadm init` would read here, its etcd beginning as a member beside `others`.
    fn etcd_config(&self, others: &[Member]) -> Result<String> {
        let mut cluster = vec![format!("{}={}", self.own.name, self.peer())];
        let own = self.peer();
        for member in others.iter().filter(|member| !member.peers.contains(&own)) {
            cluster.extend(
                member
                    .peers
                    .iter()
                    .map(|peer| format!("{}={peer}", member.name)),
            );
        }
        let mut node = self.node.clone();
        node.role = Role::Master0;
        let arguments = &mut node.kubernetes.etcd_args;
        arguments.insert("initial-cluster".to_owned(), cluster.join(","));
        arguments.insert("initial-cluster-state".to_owned(), "existing".to_owned());
        KubeadmConfig::new(self.root(), &node, &self.image).map(KubeadmConfig::into_text)
    }

    fn has_manifests(&self) -> bool {
        [
            "etcd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
        ]
        .iter()
        .all(|name| self.root().exists(format!("{MANIFESTS}/{name}.yaml")))
    }
}

impl fmt::Display for JoinControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kubeadm join: a control plane on {}", self.endpoint)
    }
}

impl Step for JoinControlPlane {
    fn name(&self) -> &'static str {
        "kubeadm-join"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(self.joiner.is_joined()? && self.has_manifests())
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        if mark::is_set(self.root(), VOTES_MARK)? && self.joiner.is_configured()? {
            // The others may have no majority without this one, and then none of them is ready: first start, then wait.
            systemd::start("kubelet.service")?;
        } else if !systemd::is_active("kubelet.service")? {
            // Of a try that was cut off before it had a vote: kubelet, started below, must not run it.
            self.root().remove(format!("{MANIFESTS}/etcd.yaml"))?;
        }
        self.joiner
            .configure_kubelet(&|report| self.find_master(report), SKIPPED_FIRST, report)?;
        self.wait_for_capacity(report)?;
        // Only etcd's members come one at a time: what is before and after costs most of the time, and masters do it side
        // by side, so that many join about as fast as one.
        let turn = lease::hold(&self.own.name, report, |report| self.find_master(report))?;
        self.join_etcd(report)?;
        drop(turn);
        kubeadm_join(SKIPPED_SECOND)?;
        let local = Client::from_kubeconfig(self.root(), ADMIN, &self.endpoint)?;
        wait_for_apiserver(&local, report)?;
        // In one rename: whoever resolves the domain gets the other master or this one, never nothing.
        self.root()
            .write("/etc/hosts", self.hosts.as_bytes(), Attributes::mode(0o644))?;
        self.joiner.annotate(&local, report);
        // kubeadm's label and taint want the node with its host name label, and give up after two minutes.
        let path = format!("/api/v1/nodes/{}", self.own.name);
        let target = format!("node {} at {}", self.own.name, local.base());
        wait(&target, &self.own.name, report, || {
            let node = local.get(&path)?.ok()?;
            let labelled = node["metadata"]["labels"]["kubernetes.io/hostname"].is_string();
            ensure!(labelled, "registered, but without its host name label yet");
            Ok(())
        });
        kubeadm_join(SKIPPED_THIRD)?;
        self.joiner.joined()
    }

    fn needs_machine(&self) -> bool {
        true
    }
}
