//! A mark on this host's state that names the cluster it was made for.
//!
//! Not a diary: a mark stands for a moment that cannot be read off the machine afterwards.

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::system::files::{Attributes, Root};

const AUTHORITY: &str = "/etc/kubernetes/pki/ca.crt";

/// Is the mark there, and of this cluster's authority? One of another cluster's means that this state is not ours.
pub fn is_set(root: &Root, mark: &str) -> Result<bool> {
    let Some(found) = root.read(mark)? else {
        return Ok(false);
    };
    ensure!(
        found == digest(root)?.into_bytes(),
        "this machine belonged to another cluster (`{mark}` is of another authority); to use it for this one, erase its \
         state partition"
    );
    Ok(true)
}

pub fn set(root: &Root, mark: &str) -> Result<()> {
    root.write(mark, digest(root)?.as_bytes(), Attributes::mode(0o600))?;
    Ok(())
}

fn digest(root: &Root) -> Result<String> {
    let authority = root
        .read(AUTHORITY)?
        .with_context(|| format!("`{AUTHORITY}` is missing: the document did not bring it"))?;
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
    fn a_mark_of_another_cluster_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let authority = |text: &[u8]| {
            root.write(AUTHORITY, text, Attributes::mode(0o644))
                .unwrap()
        };
        authority(b"one");
        assert!(!is_set(&root, "/mark").unwrap());
        set(&root, "/mark").unwrap();
        assert!(is_set(&root, "/mark").unwrap());
        authority(b"another");
        let error = is_set(&root, "/mark").unwrap_err().to_string();
        assert!(error.contains("another cluster"), "{error}");
    }
}
