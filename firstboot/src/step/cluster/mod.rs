//! The steps that make a host part of a Kubernetes cluster, one file each, in the order of the role
//! lists.
//!
//! A host is *initialised* (master0) or *joined* (every other) once its last kubeadm step has set
//! its marker. From then on all kubeadm steps are done, whatever the rest of the cluster does.
//! Before that each of them runs again after a power cut: kubeadm does not replace its files
//! atomically, so a file alone proves nothing.

pub mod accepted_clients;
pub mod apiserver_ready;
pub mod client_authority;
pub mod credentials;
pub mod domain_local;
pub mod etcd_member;
pub mod init_finish;
pub mod init_guard;
pub mod ipvs;
pub mod join_finish;
pub mod joiner;
pub mod kubeadm_config;
pub mod kubelet_start;
pub mod lvscare_pod;
pub mod manifests;
pub mod node_ip;
pub mod node_ready;
pub mod node_registered;
pub mod static_pods;
pub mod system_pods;

use anyhow::{Context, Result};
use std::net::IpAddr;
use userdata::node_config::NodeConfig;

use crate::kubeadm::{marker, paths};
use crate::system::files::Root;

/// The address that Kubernetes knows this host by.
pub fn node_address(node: &NodeConfig) -> Result<IpAddr> {
    let first = node.addresses.first();
    Ok(first.context("the node file has no address")?.addr())
}

/// What completes a host's membership in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// `kubeadm init` is complete.
    Initialised,
    /// `kubeadm join` of a control-plane host is complete.
    ControlPlane,
    /// `kubeadm join` of a worker is complete.
    Worker,
}

impl Membership {
    /// Whether the last kubeadm step has ended and its files are still here.
    ///
    /// A topology whose masters change places swaps the roles of hosts that run: a control-plane
    /// host is complete however it came into its cluster.
    pub fn is_complete(self, root: &Root) -> Result<bool> {
        let joined = marker::is_set(root, marker::KUBELET_CONFIGURED)?
            && marker::is_set(root, marker::JOINED)?;
        let marked = joined || self != Self::Worker && marker::is_set(root, marker::INITIALISED)?;
        let static_pods = self == Self::Worker || paths::has_static_pods(root);
        Ok(marked && static_pods && paths::has_kubelet_files(root))
    }

    /// Clears the marker of the last kubeadm step, before an earlier one rewrites files.
    ///
    /// A complete host whose files are missing then repeats all of its kubeadm steps. Otherwise the
    /// first rewritten file would complete it again, and a power cut would leave a partial file
    /// beside a valid marker.
    pub fn reset(self, root: &Root) -> Result<()> {
        match self {
            Self::Initialised | Self::ControlPlane => {
                // `init-guard` must never take the etcd data of a complete host for an unfinished
                // one's.
                if marker::is_set(root, marker::INITIALISED)?
                    || marker::is_set(root, marker::JOINED)?
                {
                    marker::set(root, marker::APISERVER_ANSWERED)?;
                }
                root.remove(marker::INITIALISED)?;
                root.remove(marker::JOINED)
            }
            Self::Worker => root.remove(marker::JOINED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::files::Attributes;

    /// An empty host with a certificate authority, to which markers are bound.
    fn host() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mode = Attributes::mode(0o644);
        root.write(paths::CA_CERTIFICATE, b"an authority", mode)
            .unwrap();
        (dir, root)
    }

    #[test]
    fn membership_needs_the_markers_and_all_files() {
        for (membership, markers) in [
            (Membership::Initialised, &[marker::INITIALISED][..]),
            (
                Membership::ControlPlane,
                &[marker::KUBELET_CONFIGURED, marker::JOINED],
            ),
        ] {
            let (_dir, root) = host();
            for marker in markers {
                assert!(!membership.is_complete(&root).unwrap(), "before {marker}");
                marker::set(&root, marker).unwrap();
            }
            paths::tests::write_all(&root, |path| {
                assert!(!membership.is_complete(&root).unwrap(), "before {path}");
            });
            assert!(membership.is_complete(&root).unwrap(), "{membership:?}");
            membership.reset(&root).unwrap();
            assert!(!membership.is_complete(&root).unwrap(), "{membership:?}");
            assert!(marker::is_set(&root, marker::APISERVER_ANSWERED).unwrap());
            marker::set(&root, markers[markers.len() - 1]).unwrap();
            assert!(membership.is_complete(&root).unwrap(), "{membership:?}");
            root.remove(markers[0]).unwrap();
            assert!(!membership.is_complete(&root).unwrap(), "{membership:?}");
        }
    }

    #[test]
    fn masters_that_change_places_stay_complete() {
        for markers in [
            &[marker::INITIALISED][..],
            &[marker::KUBELET_CONFIGURED, marker::JOINED],
        ] {
            let (_dir, root) = host();
            paths::tests::write_all(&root, |_| {});
            for marker in markers {
                marker::set(&root, marker).unwrap();
            }
            for membership in [Membership::Initialised, Membership::ControlPlane] {
                assert!(membership.is_complete(&root).unwrap(), "{markers:?}");
            }
        }
    }

    #[test]
    fn worker_membership_needs_no_static_pods() {
        let (_dir, root) = host();
        for path in paths::KUBELET_FILES {
            root.write(path, b"", Attributes::mode(0o600)).unwrap();
        }
        marker::set(&root, marker::KUBELET_CONFIGURED).unwrap();
        assert!(!Membership::Worker.is_complete(&root).unwrap());
        marker::set(&root, marker::JOINED).unwrap();
        assert!(Membership::Worker.is_complete(&root).unwrap());
        assert!(!Membership::ControlPlane.is_complete(&root).unwrap());
    }
}
