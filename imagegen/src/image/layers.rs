//! Layers of container images: read-only folders of the image root, protected by dm-verity, to
//! which the store of each runtime links. So first boot imports nothing, and containers run from
//! verified files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::archive::{Archive, Placed};
use crate::digest::digest;
use crate::package::oci::Image;

/// The folder of the layers in the image root.
pub const LAYERS: &str = "usr/share/firstlight/images";

/// One image for the store.
#[derive(Debug)]
pub struct StoredImage {
    /// `repository:tag` names.
    pub references: Vec<String>,
    pub config: Vec<u8>,
    /// From the bottom up.
    pub layers: Vec<StoredLayer>,
}

/// One layer, uncompressed on the building host's disk.
#[derive(Debug, Clone)]
pub struct StoredLayer {
    /// `sha256:…` of the uncompressed tar.
    pub diff_id: String,
    pub size: u64,
    pub tar: Arc<std::fs::File>,
}

/// Uncompresses the layers into unnamed temporary files; a shared layer is written once.
pub fn spool(images: &[Image], work: &Path) -> Result<Vec<StoredImage>> {
    let mut known: BTreeMap<String, StoredLayer> = BTreeMap::new();
    let mut stored = Vec::new();
    for image in images {
        let mut layers = Vec::new();
        for layer in &image.layers {
            let entry = match known.get(&layer.diff_id) {
                Some(known) => known.clone(),
                None => {
                    let mut file =
                        tempfile::tempfile_in(work).context("creating a temporary file")?;
                    let size = layer.copy_to(&mut file)?;
                    let made = StoredLayer {
                        diff_id: layer.diff_id.clone(),
                        size,
                        tar: Arc::new(file),
                    };
                    known.insert(layer.diff_id.clone(), made.clone());
                    made
                }
            };
            layers.push(entry);
        }
        stored.push(StoredImage {
            references: image.references.clone(),
            config: image.config.clone(),
            layers,
        });
    }
    Ok(stored)
}

/// The name of a layer above `parent` (OCI image specification, "Layer ChainID").
pub(super) fn chain_id(parent: Option<&str>, layer: &StoredLayer) -> String {
    match parent {
        None => layer.diff_id.clone(),
        Some(parent) => digest(format!("{parent} {}", layer.diff_id).as_bytes()),
    }
}

/// The folder of a layer in the image root; its files are in `fs` below it.
///
/// Named by content: under a new image, the store of an older state leads to the same layers or to
/// none, and never to other ones.
pub(super) fn folder(chain: &str) -> String {
    format!("{LAYERS}/{}", chain.trim_start_matches("sha256:"))
}

/// Adds the files of a layer; returns how many there are and their total size.
pub(super) fn unpack(root: &mut Archive, layer: &StoredLayer, chain: &str) -> Result<(u64, u64)> {
    // An image may have programs that get root's rights: only root may reach them on the host.
    root.directory(LAYERS, 0o700);
    let own = folder(chain);
    root.directory(&own, 0o700);
    let folder = format!("{own}/fs");
    root.directory(&folder, 0o755);
    root.add_tar(&layer.tar, |path| Some(place(&folder, path)))
        .and_then(|()| root.drop_devices(&folder))
        .with_context(|| format!("unpacking layer `{}`", layer.diff_id))?;
    Ok(root.usage(&folder))
}

/// Where a layer's entry goes below `folder`. OCI whiteouts become those of overlayfs.
fn place(folder: &str, path: &str) -> Placed {
    let (parent, name) = path.rsplit_once('/').map_or(("", path), |(p, n)| (p, n));
    let inside = |name: &str| match parent {
        "" => format!("{folder}/{name}"),
        parent => format!("{folder}/{parent}/{name}"),
    };
    match name.strip_prefix(".wh.") {
        Some(".wh..opq") => Placed::Opaque(inside("").trim_end_matches('/').to_owned()),
        Some(hidden) => Placed::Whiteout(inside(hidden)),
        None => Placed::At(inside(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oci_whiteouts_become_overlayfs_whiteouts() {
        assert_eq!(place("f", "etc/passwd"), Placed::At("f/etc/passwd".into()));
        assert_eq!(
            place("f", "etc/.wh.passwd"),
            Placed::Whiteout("f/etc/passwd".into())
        );
        assert_eq!(
            place("f", "etc/.wh..wh..opq"),
            Placed::Opaque("f/etc".into())
        );
        assert_eq!(place("f", ".wh..wh..opq"), Placed::Opaque("f".into()));
    }
}
