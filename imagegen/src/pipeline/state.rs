//! The keys of encrypted state and the passphrases of documents in an output folder.

use std::collections::BTreeMap;

use anyhow::Result;

use super::PKI;
use crate::digest::digest;
use crate::output::Folder;
use crate::output::manifest::{self, Manifest};
use crate::passphrases::{self, Passphrases};
use crate::plan::ClusterPlan;
use crate::state_keys::{self, PolicyKey, RecoveryKeys};

/// The key that signs the policy of the images; `None` if state is not encrypted.
pub(super) fn policy(
    plan: &ClusterPlan,
    folder: &Folder,
    manifest: &Manifest,
) -> Result<Option<PolicyKey>> {
    let is_known = manifest.outputs.contains_key(&PolicyKey::path(PKI));
    let key = || PolicyKey::prepare(&folder.root().join(PKI), is_known);
    plan.image.state().map(|_| key()).transpose()
}

/// [`policy`], written to the folder if it is new: `imagegen image` may come before the documents.
pub(super) fn kept_policy(plan: &ClusterPlan, folder: &Folder) -> Result<Option<PolicyKey>> {
    let mut manifest = Manifest::read(folder.root())?.unwrap_or_default();
    let policy = policy(plan, folder, &manifest)?;
    let Some(key) = &policy else {
        return Ok(None);
    };
    let mut change = folder.change()?;
    let mut tree = change.tree(PKI, 0o700)?;
    for (path, bytes) in key.files() {
        tree.add(&path, &bytes, 0o600)?;
        let name = format!("{PKI}/{}", path.display());
        manifest.outputs.insert(name, digest(&bytes));
    }
    if change.add_tree(tree, |_| false)? {
        change.add_file(manifest::FILE, &manifest.to_bytes()?, 0o644)?;
    }
    change.commit()?;
    Ok(policy)
}

/// The recovery key of each host; `None` if state is not encrypted.
pub(super) fn recovery(
    plan: &ClusterPlan,
    folder: &Folder,
    manifest: &Manifest,
) -> Result<Option<RecoveryKeys>> {
    if plan.image.state().is_none() {
        return Ok(None);
    }
    let is_known = |path: &str| manifest.outputs.contains_key(path);
    RecoveryKeys::prepare(&folder.root().join(PKI), &plan.hosts, is_known).map(Some)
}

/// The passphrase of each host; `None` if documents are not encrypted.
pub(super) fn passphrases(
    plan: &ClusterPlan,
    folder: &Folder,
    manifest: &Manifest,
) -> Result<Option<Passphrases>> {
    if !plan.encrypts_documents {
        return Ok(None);
    }
    let is_known = |path: &str| manifest.outputs.contains_key(path);
    Passphrases::prepare(&folder.root().join(PKI), &plan.hosts, is_known).map(Some)
}

/// Outputs that imagegen has written once and expects ever after, even while nothing is encrypted.
pub(super) fn known(manifest: &Manifest) -> BTreeMap<String, String> {
    let folders = [state_keys::FOLDER, passphrases::FOLDER].map(|name| format!("{PKI}/{name}/"));
    let outputs = manifest.outputs.iter();
    let known = outputs.filter(|(path, _)| folders.iter().any(|folder| path.starts_with(folder)));
    known
        .map(|(path, digest)| (path.clone(), digest.clone()))
        .collect()
}
