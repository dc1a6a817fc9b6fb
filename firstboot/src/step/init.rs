//! `kubeadm init` on master0, in two calls with our own waiting between them.
//!
//! Certificates and kubeconfigs are not made here: the document brought them, and kubeadm takes what it finds.
//!
//! kubeadm 1.20's `init` is not made to be run twice, but its phases are (read in its source, `cmd/kubeadm/app`):
//! `certs` and `kubeconfig` take what is there, `kubelet-start`, `control-plane` and `etcd` write the same files again,
//! `upload-config`, `mark-control-plane` and `addon` create or update. What stands in the way of a second run is
//! `preflight` (manifests present, ports in use, etcd's directory not empty), and all else it checks is a fact of the
//! image or was checked by the steps before. So it is skipped, not told to ignore a list of errors.
//!
//! Two calls, because `wait-control-plane` gives up: its kubelet check after 40 s and five tries whatever is configured
//! (`WaitForKubeletAndFunc`), and on a slow machine that is too soon. We wait without a limit, say what we wait for, and
//! keep a mark of the moment from which etcd's data is worth something.

use std::fmt;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use userdata::image_info::ImageInfo;
use userdata::node_config::{Master, NodeConfig};

use super::{Step, kubeadm_config, mark};
use crate::kube::client::Client;
use crate::report::Reporter;
use crate::status::Wait;
use crate::system::files::Root;
use crate::system::{command, machine, systemd};

/// Digest of the authority whose apiserver has answered on this host: from then on etcd's data is never thrown away.
const ANSWERED_MARK: &str = "/var/lib/firstlight/apiserver-answered";
/// The same, once kubeadm has nothing left to do.
const INITIALISED_MARK: &str = "/var/lib/firstlight/control-plane-initialised";
const AUTHORITY: &str = "/etc/kubernetes/pki/ca.crt";
const ETCD_DATA: &str = "/var/lib/etcd";
const ETCD_ASIDE: &str = "/var/lib/firstlight/etcd-unfinished";
const MANIFESTS: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];
const ADMIN: &str = "/etc/kubernetes/admin.conf";

/// Up to static pods that kubelet starts.
const SKIPPED_FIRST: &[&str] = &[
    "preflight",
    "wait-control-plane",
    "upload-config",
    "upload-certs",
    "mark-control-plane",
    "bootstrap-token",
    "kubelet-finalize",
    "addon",
];

/// What needs an apiserver. Still skipped, as in the first call: `upload-certs` and `bootstrap-token`, because no host
/// joins by a shared secret; `kubelet-finalize`, because kubelet.conf is the document's and already has a certificate.
const SKIPPED_SECOND: &[&str] = &[
    "preflight",
    "certs",
    "kubeconfig",
    "kubelet-start",
    "control-plane",
    "etcd",
    "wait-control-plane",
    "upload-certs",
    "bootstrap-token",
    "kubelet-finalize",
];

#[derive(Debug)]
pub struct KubeadmInit {
    root: Root,
    endpoint: String,
    node_name: String,
    others: Vec<(Master, String)>,
    missing_addons: Vec<String>,
}

impl KubeadmInit {
    pub fn new(root: &Root, node: &NodeConfig, image: &ImageInfo) -> Result<Self> {
        let port = node.apiserver.port;
        let own = node
            .addresses
            .first()
            .context("the node file has no address")?
            .addr();
        let others = node
            .masters
            .iter()
            .filter(|master| master.address != own && master.name != node.name);
        Ok(Self {
            root: root.clone(),
            endpoint: endpoint(own, port),
            node_name: node.name.clone(),
            others: others
                .map(|master| (master.clone(), endpoint(master.address, port)))
                .collect(),
            missing_addons: image.missing_addons.clone(),
        })
    }

    fn authority(&self) -> Result<Vec<u8>> {
        self.root
            .read(AUTHORITY)?
            .with_context(|| format!("`{AUTHORITY}` is missing: the document did not bring it"))
    }

    /// A second cluster with the same name and authority would split this one: its nodes could not tell them apart.
    fn refuse_beside_others(&self) -> Result<()> {
        let authority = self.authority()?;
        let answering = thread::scope(|scope| {
            let asked: Vec<_> = self
                .others
                .iter()
                .map(|(master, endpoint)| {
                    let authority = &authority;
                    // Any answer at all counts, a refusal too: TLS has shown whose it is.
                    scope.spawn(move || {
                        let client =
                            Client::anonymous(authority, endpoint, Duration::from_secs(3)).ok()?;
                        client
                            .get("/livez")
                            .ok()
                            .map(|_| format!("`{}` ({endpoint})", master.name))
                    })
                })
                .collect();
            asked
                .into_iter()
                .filter_map(|thread| thread.join().ok().flatten())
                .collect::<Vec<_>>()
        });
        if answering.is_empty() {
            return Ok(());
        }
        bail!(
            "this cluster already runs: {} answers with its authority, and this machine has no state of it; initialising \
             would make a second cluster. If this machine lost its disk, put another master first in the topology and \
             give this host its new documents, so that it joins",
            answering.join(", ")
        )
    }

    /// etcd's data from a first boot that never came to an answering apiserver holds nothing, and may be torn.
    fn clear_unfinished_etcd(&self) -> Result<()> {
        let names = self.root.list(ETCD_DATA)?;
        if names.is_empty() || mark::is_set(&self.root, ANSWERED_MARK)? {
            return Ok(());
        }
        // firstboot was started again in the same boot: etcd that runs has read its data and found it whole.
        if systemd::is_active("kubelet.service")? || machine::is_running("etcd")? {
            return Ok(());
        }
        log::warn!(
            "`{ETCD_DATA}` is from a first boot that was cut off, moving it to `{ETCD_ASIDE}`"
        );
        self.root.remove_tree(ETCD_ASIDE)?;
        let (from, to) = (self.root.join(ETCD_DATA), self.root.join(ETCD_ASIDE));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("creating `{}`", parent.display()))?;
        }
        fs::rename(&from, &to)
            .with_context(|| format!("moving `{}` to `{}`", from.display(), to.display()))
    }

    fn kubeadm(&self, skipped: &[&str]) -> Result<()> {
        let mut skipped: Vec<_> = skipped.iter().map(|phase| (*phase).to_owned()).collect();
        if !skipped.iter().any(|phase| phase == "addon") {
            skipped.extend(
                self.missing_addons
                    .iter()
                    .map(|addon| format!("addon/{addon}")),
            );
        }
        let skip = format!("--skip-phases={}", skipped.join(","));
        let config = format!("--config={}", kubeadm_config::PATH);
        // The token kubeadm makes up is never stored anywhere; it has no business in the journal either.
        command::run("kubeadm", &["init", &config, &skip, "--skip-token-print"])
    }
}

impl fmt::Display for KubeadmInit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kubeadm init: start the control plane on {}",
            self.endpoint
        )
    }
}

impl Step for KubeadmInit {
    fn name(&self) -> &'static str {
        "kubeadm-init"
    }

    fn is_done(&self) -> Result<bool> {
        let manifests = MANIFESTS.iter().all(|name| {
            self.root
                .exists(format!("/etc/kubernetes/manifests/{name}.yaml"))
        });
        let kubelet = ["config.yaml", "kubeadm-flags.env"]
            .iter()
            .all(|name| self.root.exists(format!("/var/lib/kubelet/{name}")));
        Ok(mark::is_set(&self.root, INITIALISED_MARK)? && manifests && kubelet)
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        if !mark::is_set(&self.root, ANSWERED_MARK)? {
            self.refuse_beside_others()?;
        }
        self.clear_unfinished_etcd()?;
        report.kubeadm_started();
        self.kubeadm(SKIPPED_FIRST)?;
        let client = Client::from_kubeconfig(&self.root, ADMIN, &self.endpoint)?;
        wait_for_apiserver(&client, report)?;
        mark::set(&self.root, ANSWERED_MARK)?;
        // kubeadm gives up after two minutes without the node, or while it lacks this label (`PatchNodeOnce`).
        let path = format!("/api/v1/nodes/{}", self.node_name);
        wait(
            &format!("node {} at {}", self.node_name, client.base()),
            report,
            || {
                let node = client
                    .get(&path)?
                    .ok()
                    .context("not registered by kubelet yet")?;
                let labelled = node["metadata"]["labels"]["kubernetes.io/hostname"].is_string();
                ensure!(labelled, "registered, but without its host name label yet");
                Ok(())
            },
        );
        self.kubeadm(SKIPPED_SECOND)?;
        mark::set(&self.root, INITIALISED_MARK)
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

/// Waits until the apiserver says it is ready, for as long as it takes.
pub fn wait_for_apiserver(client: &Client, report: &mut Reporter) -> Result<()> {
    wait(&format!("apiserver {}", client.base()), report, || {
        let answer = client.get("/readyz")?;
        ensure!(answer.status == 200, "{}", answer.say());
        Ok(())
    });
    Ok(())
}

/// Asks once a second until there is an answer: a server that does not listen yet sends no events.
fn wait(endpoint: &str, report: &mut Reporter, mut ask: impl FnMut() -> Result<()>) {
    let mut wait = Wait::begin();
    while let Err(error) = ask() {
        report.waiting(endpoint, &format!("{error:#}"), &wait);
        wait.again();
        #[allow(
            clippy::disallowed_methods,
            reason = "nothing tells us when a server starts to listen"
        )]
        thread::sleep(Duration::from_secs(1));
    }
    report.waited();
}

/// An address and port as they stand in a URL.
pub fn endpoint(address: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;
    use crate::system::files::Attributes;

    fn step(others: &[(&str, String)]) -> (tempfile::TempDir, KubeadmInit) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.write(AUTHORITY, b"one authority", Attributes::mode(0o644))
            .unwrap();
        let others = others.iter().map(|(name, endpoint)| {
            let address = std::net::IpAddr::from([127, 0, 0, 1]);
            (
                Master {
                    name: (*name).to_owned(),
                    address,
                },
                endpoint.clone(),
            )
        });
        let init = KubeadmInit {
            root,
            endpoint: "127.0.0.1:1".into(),
            node_name: "m0".into(),
            others: others.collect(),
            missing_addons: Vec::new(),
        };
        (dir, init)
    }

    #[test]
    fn done_needs_the_mark_and_all_files() {
        let (_dir, init) = step(&[]);
        mark::set(&init.root, INITIALISED_MARK).unwrap();
        assert!(!init.is_done().unwrap());
        let manifests = MANIFESTS.map(|name| format!("/etc/kubernetes/manifests/{name}.yaml"));
        let kubelet =
            ["config.yaml", "kubeadm-flags.env"].map(|name| format!("/var/lib/kubelet/{name}"));
        for path in manifests.iter().chain(&kubelet) {
            assert!(!init.is_done().unwrap(), "before {path}");
            init.root.write(path, b"", Attributes::mode(0o600)).unwrap();
        }
        assert!(init.is_done().unwrap());
    }

    #[test]
    fn etcd_that_was_answered_for_is_never_moved_away() {
        let (_dir, init) = step(&[]);
        init.root
            .write("/var/lib/etcd/member/wal/0", b"x", Attributes::mode(0o600))
            .unwrap();
        mark::set(&init.root, ANSWERED_MARK).unwrap();
        init.clear_unfinished_etcd().unwrap();
        assert!(init.root.exists("/var/lib/etcd/member/wal/0"));
    }

    #[test]
    fn a_stranger_on_a_masters_port_is_not_this_cluster() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        // Answers, but not as TLS: once to see whether somebody listens, once to ask.
        let stranger = thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                let mut hello = [0; 64];
                let _ = stream.unwrap().read(&mut hello);
            }
        });
        let (_dir, init) = step(&[("m1", endpoint)]);
        let certified = some_authority();
        init.root
            .write(AUTHORITY, certified.as_bytes(), Attributes::mode(0o644))
            .unwrap();
        init.refuse_beside_others().unwrap();
        stranger.join().unwrap();
    }

    /// Any certificate will do: nothing is signed by it.
    fn some_authority() -> String {
        include_str!("../../tests/fixtures/authority.crt").to_owned()
    }
}
