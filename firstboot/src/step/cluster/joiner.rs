//! What both joining roles share: find a ready apiserver, then have kubeadm configure and start
//! kubelet.
//!
//! No token and no TLS bootstrap: the document contains kubelet.conf. From kubeadm 1.20's source
//! (`phases/join`): file discovery asks for `cluster-info`, gets 403 as a node, and continues with
//! the file. `kubelet-start` refuses while a node of this name is Ready, writes kubelet's two
//! files, starts it, finds kubelet.conf at once, and then waits at most two minutes for the node
//! object, to annotate it. That is too short for a slow machine: its failure there is ignored, and
//! the step `node-registered` annotates.

use anyhow::{Context, Result, ensure};
use userdata::image_info::{ImageInfo, KubeadmPhases};
use userdata::node_config::{Master, NodeConfig};

use crate::kube::client::Client;
use crate::kubeadm::{marker, paths, phases};
use crate::report::Reporter;
use crate::system::files::Root;
use crate::system::systemd;
use crate::wait::{Backoff, endpoint};

/// A host that joins, of either role.
#[derive(Debug, Clone)]
pub struct Joiner {
    pub root: Root,
    pub name: String,
    /// The other masters with their apiservers' endpoints, in the order of the topology.
    pub others: Vec<(Master, String)>,
    /// The ConfigMaps that `kubeadm join` reads; master0's kubeadm uploads them last.
    configuration: [String; 2],
    phases: KubeadmPhases,
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
            "`{}` joins a cluster, but the node file lists no other master",
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
            configuration: ["kubeadm-config".to_owned(), kubelet],
            phases: image.kubeadm_phases.clone(),
        })
    }

    /// Waits for the first control-plane host of the list whose apiserver is ready; asks with the
    /// credentials of `kubeconfig`.
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
        let target = format!("an apiserver ({})", names.join(", "));
        // Once, and not at each try: waiting for hours must cost next to nothing.
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
                        let answer = match client.get("/readyz") {
                            Ok(response) if response.status == 200 => return true,
                            Ok(response) => response.say(),
                            Err(error) => format!("{error:#}"),
                        };
                        answers.push(format!("{} ({endpoint}): {answer}", master.name));
                        false
                    });
            if let Some(at) = ready {
                report.wait_finished();
                return Ok((&self.others[at].0, clients.swap_remove(at)));
            }
            report.waiting(&target, &answers.join("; "), backoff.wait());
            backoff.pause();
        }
    }

    /// Whether kubeadm has written all of kubelet's files.
    pub fn is_configured(&self) -> Result<bool> {
        Ok(marker::is_set(&self.root, marker::KUBELET_CONFIGURED)?
            && paths::has_kubelet_files(&self.root))
    }

    /// Runs `kubeadm join` without the phases in `skipped`; afterwards kubelet runs on complete
    /// files.
    ///
    /// `connect` returns a client of an apiserver that is ready; it is called again after each
    /// error.
    pub fn configure_kubelet(
        &self,
        connect: &dyn Fn(&mut Reporter) -> Result<Client>,
        skipped: &[&str],
        report: &mut Reporter,
    ) -> Result<()> {
        if self.is_configured()? {
            return systemd::start("kubelet.service");
        }
        // An interrupted try may have left a partial file and a kubelet that runs on it.
        systemd::stop("kubelet.service")?;
        self.root.remove(marker::KUBELET_CONFIGURED)?;
        for path in paths::KUBELET_FILES {
            self.root.remove(path)?;
        }
        let mut backoff = Backoff::new(&self.name);
        loop {
            let client = connect(report)?;
            let Err(error) = self.check_cluster(&client) else {
                break;
            };
            let target = format!("the cluster at {}", client.base());
            report.waiting(&target, &format!("{error:#}"), backoff.wait());
            backoff.pause();
        }
        report.wait_finished();
        report.kubeadm_started();
        if let Err(error) = phases::join(&self.phases, skipped) {
            // kubeadm stops kubelet before it writes and starts it after: a running kubelet has
            // complete files.
            let complete = paths::has_kubelet_files(&self.root);
            if !complete || !systemd::is_active("kubelet.service")? {
                return Err(error);
            }
            log::warn!("kubeadm started kubelet and then timed out; continuing: {error:#}");
        }
        marker::set(&self.root, marker::KUBELET_CONFIGURED)
    }

    /// Checks that the ConfigMaps exist and that no Ready node has this name.
    fn check_cluster(&self, client: &Client) -> Result<()> {
        // An apiserver answers minutes before master0's kubeadm uploads these.
        for name in &self.configuration {
            let path = format!("/api/v1/namespaces/kube-system/configmaps/{name}");
            client
                .get(&path)?
                .ok()
                .with_context(|| format!("reading ConfigMap {name}"))?;
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
            "node {} is already Ready: an earlier try of this host, or another host of the same name",
            self.name
        );
        Ok(())
    }
}
