//! `kubeadm join` as far as kubelet goes: wait for a master, configure and start kubelet. All of a node's joining, and the
//! first part of a master's.
//!
//! No token and no TLS bootstrap: the document brought kubelet.conf. Read in kubeadm 1.20's source (`phases/join`):
//! `preflight` is skipped, because it refuses a kubelet.conf and a ca.crt that are there, and all else it checks is a
//! fact of the image or was looked at by the steps before. File discovery asks for `cluster-info`, gets 403 as a node,
//! and goes on with the file it has. `kubelet-start` refuses while a node of this name is Ready, writes kubelet's two
//! files, starts it, finds kubelet.conf at once, and then waits two minutes at most for the node object, to annotate it:
//! on a slow machine that is too soon, so that its failing there is no failure, and the annotation is made by us.

use std::fmt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use userdata::image_info::ImageInfo;
use userdata::node_config::{Master, NodeConfig};

use super::init::endpoint;
use super::ipvs::Ipvs;
use super::{Step, kubeadm_config, mark};
use crate::kube::client::Client;
use crate::report::Reporter;
use crate::status::Wait;
use crate::system::files::Root;
use crate::system::{command, systemd};

const KUBELET_CONF: &str = "/etc/kubernetes/kubelet.conf";
/// kubeadm has written all of kubelet's files.
const CONFIGURED_MARK: &str = "/var/lib/firstlight/kubelet-configured";
const JOINED_MARK: &str = "/var/lib/firstlight/joined";
const KUBELET_FILES: [&str; 2] = [
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
];

/// A host that joins: what both roles do.
#[derive(Debug, Clone)]
pub struct Joiner {
    pub root: Root,
    pub name: String,
    /// The other masters with their apiservers' endpoints, in the order of the topology.
    pub others: Vec<(Master, String)>,
    cri_socket: String,
    /// What master0's kubeadm leaves for those that join, once it is done.
    configuration: [String; 2],
}

impl Joiner {
    pub fn new(root: &Root, node: &NodeConfig, image: &ImageInfo) -> Result<Self> {
        let others: Vec<_> = node
            .masters
            .iter()
            .filter(|master| master.name != node.name)
            .map(|master| {
                (
                    master.clone(),
                    endpoint(master.address, node.apiserver.port),
                )
            })
            .collect();
        ensure!(
            !others.is_empty(),
            "`{}` is to join a cluster, but the node file names no other master",
            node.name
        );
        let minor = image.kubernetes_version.split('.').nth(1);
        let kubelet = match minor.and_then(|minor| minor.parse::<u32>().ok()) {
            Some(minor) if minor < 24 => format!("kubelet-config-1.{minor}"),
            _ => "kubelet-config".to_owned(),
        };
        Ok(Self {
            root: root.clone(),
            name: node.name.clone(),
            others,
            cri_socket: image.cri_socket.clone(),
            configuration: ["kubeadm-config".to_owned(), kubelet],
        })
    }

    /// The first master of the list that is ready, asked with the credentials of `kubeconfig`; waits as long as it takes.
    pub fn wait_for_master(
        &self,
        kubeconfig: &str,
        report: &mut Reporter,
    ) -> Result<(&Master, Client)> {
        let mut backoff = Backoff::new(&self.name);
        let names: Vec<_> = self
            .others
            .iter()
            .map(|(_, endpoint)| endpoint.as_str())
            .collect();
        let target = format!("an apiserver of {}", names.join(", "));
        // Once, and not at each try: a machine that waits for hours costs next to nothing.
        let mut clients = self
            .others
            .iter()
            .map(|(_, endpoint)| Client::from_kubeconfig(&self.root, kubeconfig, endpoint))
            .collect::<Result<Vec<_>>>()?;
        loop {
            let mut answers = Vec::new();
            let ready =
                clients
                    .iter()
                    .zip(&self.others)
                    .position(|(client, (master, endpoint))| {
                        let said = match client.get("/readyz") {
                            Ok(answer) if answer.status == 200 => return true,
                            Ok(answer) => answer.say(),
                            Err(error) => format!("{error:#}"),
                        };
                        answers.push(format!("{} ({endpoint}) says {said}", master.name));
                        false
                    });
            if let Some(at) = ready {
                report.waited();
                return Ok((&self.others[at].0, clients.swap_remove(at)));
            }
            report.waiting(&target, &answers.join("; "), backoff.wait());
            backoff.pause();
        }
    }

    /// Has kubelet been configured by kubeadm, to the end?
    pub fn is_configured(&self) -> Result<bool> {
        Ok(mark::is_set(&self.root, CONFIGURED_MARK)?
            && KUBELET_FILES.iter().all(|path| self.root.exists(path)))
    }

    /// Runs kubeadm's join without `skipped`, which ends with kubelet running on whole files.
    ///
    /// `connect` gives a client of an apiserver that is ready; it is asked again after each error.
    pub fn configure_kubelet(
        &self,
        connect: &dyn Fn(&mut Reporter) -> Result<Client>,
        skipped: &[&str],
        report: &mut Reporter,
    ) -> Result<()> {
        if self.is_configured()? {
            return systemd::start("kubelet.service");
        }
        // A try that was cut off may have left half of a file, and a kubelet that runs on it.
        systemd::stop("kubelet.service")?;
        for path in KUBELET_FILES {
            self.root.remove(path)?;
        }
        let mut backoff = Backoff::new(&self.name);
        loop {
            let client = connect(report)?;
            let Err(error) = self.may_configure(&client) else {
                break;
            };
            let target = format!("the cluster at {}", client.base());
            report.waiting(&target, &format!("{error:#}"), backoff.wait());
            backoff.pause();
        }
        report.waited();
        report.kubeadm_started();
        if let Err(error) = kubeadm_join(skipped) {
            // kubeadm stops kubelet before it writes and starts it after: one that runs has whole files.
            let whole = KUBELET_FILES.iter().all(|path| self.root.exists(path));
            if !whole || !systemd::is_active("kubelet.service")? {
                return Err(error);
            }
            log::warn!(
                "kubeadm has started kubelet and then given up, going on without it: {error:#}"
            );
        }
        mark::set(&self.root, CONFIGURED_MARK)
    }

    /// Would kubeadm find what it reads, and our name free?
    fn may_configure(&self, client: &Client) -> Result<()> {
        // An apiserver answers minutes before master0's kubeadm has put these down.
        for name in &self.configuration {
            let path = format!("/api/v1/namespaces/kube-system/configmaps/{name}");
            client
                .get(&path)?
                .ok()
                .with_context(|| format!("asking for {name}"))?;
        }
        let answer = client.get(&format!("/api/v1/nodes/{}", self.name))?;
        if answer.status == 404 {
            return Ok(());
        }
        let node = answer.ok()?;
        let mut conditions = node["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten();
        ensure!(
            !conditions.any(|one| one["type"] == "Ready" && one["status"] == "True"),
            "a node {} is still called Ready, from an earlier try of this host or by another host of this name",
            self.name
        );
        Ok(())
    }

    /// Waits for the node object and gives it kubeadm's annotation.
    pub fn annotate(&self, client: &Client, report: &mut Reporter) {
        let path = format!("/api/v1/nodes/{}", self.name);
        let annotation = json!({ "metadata": { "annotations": { "kubeadm.alpha.kubernetes.io/cri-socket": self.cri_socket } } });
        let target = format!("node {} at {}", self.name, client.base());
        wait(&target, &self.name, report, || {
            let answer = client.send("PATCH", &path, &annotation)?;
            ensure!(answer.status != 404, "not registered by kubelet yet");
            answer.ok().map(|_| ())
        });
    }

    pub fn is_joined(&self) -> Result<bool> {
        Ok(self.is_configured()? && mark::is_set(&self.root, JOINED_MARK)?)
    }

    pub fn joined(&self) -> Result<()> {
        mark::set(&self.root, JOINED_MARK)
    }
}

/// One call of `kubeadm join` without these phases; `preflight` never runs.
pub fn kubeadm_join(skipped: &[&str]) -> Result<()> {
    let config = format!("--config={}", kubeadm_config::PATH);
    let skip = format!("--skip-phases=preflight,{}", skipped.join(","));
    command::run("kubeadm", &["join", &config, skip.trim_end_matches(',')])
}

/// Asks until there is an answer, without a limit.
pub fn wait(target: &str, seed: &str, report: &mut Reporter, mut ask: impl FnMut() -> Result<()>) {
    let mut backoff = Backoff::new(seed);
    while let Err(error) = ask() {
        report.waiting(target, &format!("{error:#}"), backoff.wait());
        backoff.pause();
    }
    report.waited();
}

/// Pauses between one and two seconds, never the same, so that machines switched on together do not ask together.
#[derive(Debug)]
pub struct Backoff {
    wait: Wait,
    state: u64,
}

impl Backoff {
    pub fn new(seed: &str) -> Self {
        let clock =
            clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_nsec().unsigned_abs());
        let state = seed.bytes().fold(clock | 1, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(byte.into())
        });
        let wait = Wait::begin();
        Self { wait, state }
    }

    /// Since when, and how often.
    pub fn wait(&self) -> &Wait {
        &self.wait
    }

    pub fn pause(&mut self) {
        self.wait.again();
        // Knuth's MMIX generator: only to spread the machines.
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let jitter = Duration::from_millis((self.state >> 33) % 1000);
        #[allow(
            clippy::disallowed_methods,
            reason = "nothing tells us when a server starts to listen"
        )]
        thread::sleep(Duration::from_secs(1) + jitter);
    }
}

/// A node joins.
#[derive(Debug)]
pub struct KubeadmJoin {
    joiner: Joiner,
    ipvs: Ipvs,
    through: String,
}

impl KubeadmJoin {
    pub fn new(root: &Root, node: &NodeConfig, image: &ImageInfo) -> Result<Self> {
        Ok(Self {
            joiner: Joiner::new(root, node, image)?,
            ipvs: Ipvs::new(node)?,
            through: endpoint(node.apiserver.vip, node.apiserver.port),
        })
    }
}

impl fmt::Display for KubeadmJoin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kubeadm join: a node of the cluster at {}", self.through)
    }
}

impl Step for KubeadmJoin {
    fn name(&self) -> &'static str {
        "kubeadm-join"
    }

    fn is_done(&self) -> Result<bool> {
        self.joiner.is_joined()
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let joiner = &self.joiner;
        let client = || Client::from_kubeconfig(&joiner.root, KUBELET_CONF, &self.through);
        let connect = |report: &mut Reporter| {
            joiner.wait_for_master(KUBELET_CONF, report)?;
            // At boot none may have answered; now one does, and those that do not are out of the table.
            self.ipvs.set_up()?;
            client()
        };
        joiner.configure_kubelet(&connect, &[], report)?;
        joiner.annotate(&client()?, report);
        joiner.joined()
    }

    fn needs_machine(&self) -> bool {
        true
    }
}
