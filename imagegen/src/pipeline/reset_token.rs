//! The token with which a host forgets its document.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{HOSTS, Input, PKI};
use crate::digest::digest;
use crate::output::manifest::{self, Manifest};
use crate::output::{Folder, beneath};
use crate::pki::folder;
use crate::seed;

/// Writes `reset-HOST.img`, a seed disk with a token for `host`, and returns its path.
pub fn reset_token(input: &Input, output: &Folder, host: &str) -> Result<PathBuf> {
    let plan = &input.plan;
    if !plan.hosts.iter().any(|known| known.name == host) {
        let names: Vec<_> = plan.hosts.iter().map(|host| host.name.as_str()).collect();
        bail!(
            "the topology has no host `{host}`; its hosts are {}",
            names.join(", ")
        );
    }
    let pki = output.root().join(PKI);
    let (key, mut generations) = folder::document_key_of(&pki)?;
    let name = format!("{HOSTS}/{host}/meta-data");
    let meta_data = beneath::read(output.root(), Path::new(&name))?
        .with_context(|| format!("`{name}` is missing; run `imagegen userdata` first"))?;
    let meta_data = String::from_utf8(meta_data).with_context(|| format!("reading `{name}`"))?;
    let token = key.reset_token(&plan.name, host, &meta_data, &mut generations)?;
    let image = seed::with_files(&[
        ("meta-data", meta_data.as_bytes()),
        ("user-data", token.as_bytes()),
    ])
    .context("creating the disk of the token")?;

    let mut manifest = Manifest::read(output.root())?.unwrap_or_default();
    let mut change = output.change()?;
    // The number comes first: one that was given out is never given again.
    let (file, bytes) = folder::documents_file(&generations)?;
    let mut tree = change.tree(PKI, 0o700)?;
    tree.add(Path::new(file), &bytes, 0o600)?;
    manifest
        .outputs
        .insert(format!("{PKI}/{file}"), digest(&bytes));
    change.add_tree(tree, |_| false)?;
    let name = format!("reset-{host}.img");
    change.add_file(&name, &image, 0o644)?;
    manifest.outputs.insert(name.clone(), digest(&image));
    change.add_file(manifest::FILE, &manifest.to_bytes()?, 0o644)?;
    change.commit()?;
    Ok(output.root().join(name))
}
