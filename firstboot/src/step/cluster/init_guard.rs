//! Refuses to initialise a second cluster, and moves etcd's data of an unfinished first boot out of
//! the way.

use std::fmt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use userdata::node_config::{Master, NodeConfig};

use super::node_address;
use crate::etcd;
use crate::kube::client::Client;
use crate::kubeadm::marker;
use crate::kubeadm::paths::{CA_CERTIFICATE, ETCD_DATA};
use crate::report::Reporter;
use crate::step::Step;
use crate::system::files::Root;
use crate::system::{machine, systemd};
use crate::wait::endpoint;

#[derive(Debug)]
pub struct InitGuard {
    root: Root,
    /// The other control-plane hosts with their apiservers' endpoints.
    others: Vec<(Master, String)>,
}

impl InitGuard {
    pub fn new(root: &Root, node: &NodeConfig) -> Result<Self> {
        let own = node_address(node)?;
        let others = node
            .masters
            .iter()
            .filter(|master| master.address != own && master.name != node.name)
            .map(|master| {
                let endpoint = endpoint(master.address, node.apiserver.port);
                (master.clone(), endpoint)
            });
        Ok(Self {
            root: root.clone(),
            others: others.collect(),
        })
    }

    fn authority(&self) -> Result<Vec<u8>> {
        self.root.read(CA_CERTIFICATE)?.with_context(|| {
            format!("`{CA_CERTIFICATE}` is missing: the document does not contain it")
        })
    }

    /// A second cluster of the same name and authority would split this one: nodes could not tell
    /// them apart.
    fn refuse_beside_running_cluster(&self) -> Result<()> {
        let authority = self.authority()?;
        let answering = thread::scope(|scope| {
            let requests: Vec<_> = self
                .others
                .iter()
                .map(|(master, endpoint)| {
                    let authority = &authority;
                    // Any response counts, even 403: the TLS handshake has proved the authority.
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
            requests
                .into_iter()
                .filter_map(|thread| thread.join().ok().flatten())
                .collect::<Vec<_>>()
        });
        if answering.is_empty() {
            return Ok(());
        }
        bail!(
            "this cluster already runs: {} serves with its certificate authority, and this machine has no state of it; \
             initialising would create a second cluster. If this machine lost its disk, put another master first in the \
             topology and give this host its new document, so that it joins",
            answering.join(", ")
        )
    }

    /// etcd's data of a first boot whose apiserver never answered holds nothing, and may be torn.
    fn clear_unfinished_etcd(&self) -> Result<()> {
        if self.root.list(ETCD_DATA)?.is_empty() {
            return Ok(());
        }
        // firstboot has restarted in the same boot: a running etcd has read its data and found it
        // whole.
        if systemd::is_active("kubelet.service")? || machine::is_running("etcd")? {
            return Ok(());
        }
        etcd::back_up_data(&self.root, "it is from an unfinished first boot")
    }
}

impl fmt::Display for InitGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "check that no other master serves this cluster")
    }
}

impl Step for InitGuard {
    fn name(&self) -> &'static str {
        "init-guard"
    }

    /// A host with any of these markers belongs to this cluster, as master0 or as a master that a
    /// new topology puts first: its etcd data stays, whatever other files are missing.
    fn is_done(&self) -> Result<bool> {
        for marker in [
            marker::INITIALISED,
            marker::APISERVER_ANSWERED,
            marker::JOINED,
            marker::ETCD_VOTES,
        ] {
            if marker::is_set(&self.root, marker)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        self.refuse_beside_running_cluster()?;
        self.clear_unfinished_etcd()
    }

    /// A check leaves nothing behind, and data that is moved away is no change of configuration.
    fn is_lasting(&self) -> bool {
        false
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;
    use crate::system::files::Attributes;

    fn step(others: &[(&str, String)]) -> (tempfile::TempDir, InitGuard) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.write(CA_CERTIFICATE, b"an authority", Attributes::mode(0o644))
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
        let guard = InitGuard {
            root,
            others: others.collect(),
        };
        (dir, guard)
    }

    #[test]
    fn guard_is_done_once_the_apiserver_has_answered() {
        for marker in [
            marker::APISERVER_ANSWERED,
            marker::INITIALISED,
            marker::JOINED,
            marker::ETCD_VOTES,
        ] {
            let (_dir, guard) = step(&[]);
            assert!(!guard.is_done().unwrap());
            marker::set(&guard.root, marker).unwrap();
            assert!(guard.is_done().unwrap(), "{marker}");
        }
    }

    #[test]
    fn foreign_server_on_master_port_is_not_this_cluster() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        // Answers without TLS: once for the connection test, once for the request.
        let foreign = thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                let mut hello = [0; 64];
                let _ = stream.unwrap().read(&mut hello);
            }
        });
        let (_dir, guard) = step(&[("m1", endpoint)]);
        let certified = some_authority();
        guard
            .root
            .write(
                CA_CERTIFICATE,
                certified.as_bytes(),
                Attributes::mode(0o644),
            )
            .unwrap();
        guard.refuse_beside_running_cluster().unwrap();
        foreign.join().unwrap();
    }

    /// Any certificate works: it signs nothing here.
    fn some_authority() -> String {
        include_str!("../../../tests/fixtures/authority.crt").to_owned()
    }
}
