//! This host's etcd joins the others', one host at a time, as a learner first.
//!
//! kubeadm 1.20 adds a voting member before it has started: from one member to two, a power cut
//! then stops the cluster for good. Here the member is added as a learner, starts from kubeadm's
//! manifest (`init phase etcd local`, with the other members as arguments, which needs no
//! apiserver), and is promoted once it has caught up. The apiserver comes only after that: it costs
//! a slow machine much, and could not serve before.

use std::fmt;

use anyhow::{Context, Result, ensure};
use userdata::image_info::ImageInfo;
use userdata::node_config::{Master, NodeConfig, Role};

use super::joiner::Joiner;
use super::kubeadm_config::KubeadmConfig;
use super::{Membership, node_address};
use crate::etcd;
use crate::etcd::learner::Learner;
use crate::etcd::membership::{self, Etcd, Member, Verdict, verdict};
use crate::host::Host;
use crate::kube::client::Client;
use crate::kube::lease;
use crate::kubeadm::{marker, paths};
use crate::report::Reporter;
use crate::step::Step;
use crate::step::hosts::{hosts_file_with, with_current_lines};
use crate::system::files::{Attributes, Root};
use crate::system::{command, machine};
use crate::wait::{Backoff, endpoint, until};

const ETCD_CONFIG: &str = "/var/lib/firstlight/kubeadm-etcd.yaml";

#[derive(Debug)]
pub struct EtcdMember {
    pub(super) joiner: Joiner,
    node: NodeConfig,
    image: ImageInfo,
    own: Master,
    /// `/etc/hosts` with the domain resolved to each of the other control-plane hosts.
    hosts_by: Vec<String>,
}

impl EtcdMember {
    pub fn new(root: &Root, host: &Host, node: &NodeConfig, image: &ImageInfo) -> Result<Self> {
        let address = node_address(node)?;
        let joiner = Joiner::new(root, node, image)?;
        let hosts_by = joiner
            .others
            .iter()
            .map(|(master, _)| hosts_file_with(host, Some(master.address)));
        let join = Self {
            own: Master {
                name: node.name.clone(),
                address,
            },
            hosts_by: hosts_by.collect(),
            node: node.clone(),
            image: image.clone(),
            joiner,
        };
        // A configuration that cannot be completed is found before the first change.
        join.etcd_config(&[])?;
        Ok(join)
    }

    pub(super) fn root(&self) -> &Root {
        &self.joiner.root
    }

    fn peer(&self) -> String {
        format!("https://{}", endpoint(self.own.address, etcd::PEER_PORT))
    }

    /// Waits for a ready apiserver and resolves the domain to its host from now on.
    pub(super) fn find_apiserver(&self, report: &mut Reporter) -> Result<Client> {
        let (master, client) = self.joiner.wait_for_master(paths::ADMIN_CONF, report)?;
        let at = self
            .joiner
            .others
            .iter()
            .position(|(other, _)| other == master);
        if let Some(text) = at.and_then(|at| self.hosts_by.get(at)) {
            let text = with_current_lines(self.root(), text)?;
            self.root()
                .write("/etc/hosts", text.as_bytes(), Attributes::mode(0o644))?;
        }
        Ok(client)
    }

    /// Returns the member list of the first other etcd that answers, or every error.
    fn ask_etcd(&self) -> Result<(Etcd, Vec<Member>)> {
        let mut answers = Vec::new();
        for (master, _) in &self.joiner.others {
            let etcd = Etcd::new(self.root(), &endpoint(master.address, etcd::CLIENT_PORT))?;
            match etcd.members() {
                Ok(members) => return Ok((etcd, members)),
                Err(error) => {
                    answers.push(format!("{} ({}): {error:#}", master.name, etcd.base()));
                }
            }
        }
        anyhow::bail!("{}", answers.join("; "))
    }

    /// kubelet registers before it reports ephemeral-storage, and until then it rejects etcd's pod,
    /// which requests some. It does not retry a rejected static pod (`predicate.go`,
    /// `pod_workers.go` of 1.20).
    fn wait_for_capacity(&self, report: &mut Reporter) -> Result<()> {
        let client = self.find_apiserver(report)?;
        let path = format!("/api/v1/nodes/{}", self.own.name);
        let target = format!("node {} at {}", self.own.name, client.base());
        let backoff = Backoff::new(&self.own.name);
        until(&target, backoff, report, || {
            let node = client.get(&path)?.ok()?;
            let measured = node["status"]["allocatable"]["ephemeral-storage"].is_string();
            ensure!(measured, "kubelet has not reported ephemeral-storage yet");
            Ok(())
        });
        Ok(())
    }

    /// Returns when this host's etcd member votes.
    fn join_etcd(&self, report: &mut Reporter) -> Result<()> {
        let mut backoff = Backoff::new(&self.own.name);
        let others: Vec<_> = self
            .joiner
            .others
            .iter()
            .map(|(master, _)| endpoint(master.address, etcd::CLIENT_PORT))
            .collect();
        let target = format!("etcd voting membership, through {}", others.join(", "));
        let mut learner = Learner::default();
        loop {
            let why = match self.join_etcd_once(&mut learner) {
                Ok(None) => {
                    report.wait_finished();
                    return Ok(());
                }
                Ok(Some(why)) => why,
                Err(error) => format!("{error:#}"),
            };
            report.waiting(&target, &why, backoff.wait());
            backoff.pause();
        }
    }

    /// Reads the member list and does the one thing that it calls for. `None`: this member votes;
    /// else what it waits for.
    fn join_etcd_once(&self, learner: &mut Learner) -> Result<Option<String>> {
        let (etcd, members) = self.ask_etcd()?;
        let peer = self.peer();
        let own = members.iter().find(|member| member.peers.contains(&peer));
        let healthy = membership::healthy(self.root(), &members)?;
        let running = machine::is_running("etcd")?;
        // A learner whose promotion succeeded while the response was lost runs here: its data
        // counts as marked.
        let data = marker::is_set(self.root(), marker::ETCD_VOTES)?
            || (running && own.is_some_and(|own| !own.name.is_empty()));
        match verdict(&members, &peer, &healthy, running || learner.added, data) {
            Verdict::Wait(why) => Ok(Some(why)),
            Verdict::Remove(id) => {
                log::warn!("removing etcd member {id} ({peer}): it is from an unfinished try");
                self.clear()?;
                etcd.remove(&id)?;
                Ok(Some("its stale member has just been removed".to_owned()))
            }
            Verdict::Join => {
                self.clear()?;
                etcd.add_learner(&peer)?;
                learner.added = true;
                self.start_etcd(&members)?;
                Ok(Some("added as a learner".to_owned()))
            }
            Verdict::Resume => {
                let own = own.context("the member to resume is gone")?;
                if !self.has_etcd_manifest() {
                    // Interrupted, or failed, between adding the member and starting it.
                    self.start_etcd(&members)?;
                }
                if own.name.is_empty() {
                    return Ok(Some("its member has not started yet".to_owned()));
                }
                let local = Etcd::new(self.root(), &endpoint(self.own.address, etcd::CLIENT_PORT))?;
                let committed = etcd.progress()?.committed;
                let applied = local.progress()?.applied;
                if !learner.has_caught_up(committed, applied) {
                    return Ok(Some(format!(
                        "learner at raft index {applied} of {committed}"
                    )));
                }
                // Before the promotion: after a power cut in between, a voting member must not look
                // like one that has nothing to lose.
                marker::set(self.root(), marker::ETCD_VOTES)?;
                match etcd.promote(&own.id) {
                    Ok(()) => Ok(None),
                    Err(error) => Ok(Some(format!("promotion refused: {error:#}"))),
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
        self.root().exists(paths::manifest("etcd"))
    }

    /// Removes what an earlier try left: the manifest, so that kubelet does not start it, and the
    /// data.
    fn clear(&self) -> Result<()> {
        // A marker here means data that voted, of a member that the cluster no longer has: it is
        // kept as a backup.
        self.root().remove(paths::manifest("etcd"))?;
        if machine::is_running("etcd")? {
            anyhow::bail!("etcd of an earlier try is still running; kubelet is stopping it");
        }
        if !self.root().list(paths::ETCD_DATA)?.is_empty() {
            etcd::back_up_data(self.root(), "it belongs to no member of this cluster")?;
        }
        self.root().remove(marker::ETCD_VOTES)
    }

    /// Has kubeadm write the manifest of a member that joins an existing cluster.
    fn start_etcd(&self, others: &[Member]) -> Result<()> {
        let text = self.etcd_config(others)?;
        self.root()
            .write(ETCD_CONFIG, text.as_bytes(), Attributes::mode(0o600))?;
        let config = format!("--config={ETCD_CONFIG}");
        command::run("kubeadm", &["init", "phase", "etcd", "local", &config])
    }

    /// The configuration of `kubeadm init` with an etcd that starts as a member beside `others`.
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
}

impl fmt::Display for EtcdMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "join etcd as {}: learner, then voting member",
            self.peer()
        )
    }
}

impl Step for EtcdMember {
    fn name(&self) -> &'static str {
        "etcd-member"
    }

    fn is_done(&self) -> Result<bool> {
        Membership::ControlPlane.is_complete(self.root())
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        self.wait_for_capacity(report)?;
        // Only etcd's members join one at a time. What comes before and after takes most of the
        // time, and hosts do it in parallel.
        let lock = lease::hold(&self.own.name, report, |report| self.find_apiserver(report))?;
        self.join_etcd(report)?;
        drop(lock);
        Ok(())
    }

    fn needs_machine(&self) -> bool {
        true
    }
}
