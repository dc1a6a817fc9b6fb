//! Markers on this host's state, each bound to the cluster's certificate authority.
//!
//! A marker records a moment that cannot be read off the machine afterwards. Everything else is
//! asked of the machine.

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::paths::CA_CERTIFICATE;
use crate::system::files::{Attributes, Root};

/// The local apiserver has answered: from now on etcd's data is never moved away.
pub const APISERVER_ANSWERED: &str = "/var/lib/firstlight/apiserver-answered";
/// `kubeadm init` is complete.
pub const INITIALISED: &str = "/var/lib/firstlight/control-plane-initialised";
/// kubeadm has written all of kubelet's files.
pub const KUBELET_CONFIGURED: &str = "/var/lib/firstlight/kubelet-configured";
/// The local etcd member votes, or is about to: from now on the cluster may need its data.
pub const ETCD_VOTES: &str = "/var/lib/firstlight/etcd-votes";
/// `kubeadm join` is complete.
pub const JOINED: &str = "/var/lib/firstlight/joined";

/// Returns whether `marker` is set for this cluster's authority.
///
/// A marker of another authority is an error: the state belongs to another cluster.
pub fn is_set(root: &Root, marker: &str) -> Result<bool> {
    let Some(found) = root.read(marker)? else {
        return Ok(false);
    };
    ensure!(
        found == digest(root)?.into_bytes(),
        "this machine belonged to another cluster (`{marker}` is of another certificate authority); to use it for this \
         one, erase its state partition"
    );
    Ok(true)
}

/// Whether this host is, or was, in the control plane of this cluster.
pub fn in_control_plane(root: &Root) -> Result<bool> {
    for marker in [INITIALISED, APISERVER_ANSWERED, JOINED, ETCD_VOTES] {
        if is_set(root, marker)? {
            return Ok(true);
        }
    }
    Ok(false)
}

pub fn set(root: &Root, marker: &str) -> Result<()> {
    root.write(marker, digest(root)?.as_bytes(), Attributes::mode(0o600))?;
    Ok(())
}

fn digest(root: &Root) -> Result<String> {
    let authority = root.read(CA_CERTIFICATE)?.with_context(|| {
        format!("`{CA_CERTIFICATE}` is missing: the document does not contain it")
    })?;
    let digest = Sha256::digest(authority);
    Ok(digest
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>()
        + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_of_another_cluster_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let authority = |text: &[u8]| {
            root.write(CA_CERTIFICATE, text, Attributes::mode(0o644))
                .unwrap()
        };
        authority(b"one");
        assert!(!is_set(&root, "/marker").unwrap());
        set(&root, "/marker").unwrap();
        assert!(is_set(&root, "/marker").unwrap());
        authority(b"another");
        let error = is_set(&root, "/marker").unwrap_err().to_string();
        assert!(error.contains("another cluster"), "{error}");
    }
}
