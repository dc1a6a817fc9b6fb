//! Layers as containerd's snapshots: each is a read-only folder of the root and an entry in the
//! snapshotter's database.

use std::collections::BTreeMap;

use anyhow::Result;

use super::bbolt::Bucket;
use super::encoding::{uvarint, varint};
use super::store::{NAMESPACE, dated};
use crate::image::archive::Archive;
use crate::image::layers::{self, StoredLayer};

/// containerd's `snapshots.KindCommitted`.
const COMMITTED: u8 = 3;

/// Committed snapshots by chain id (OCI image specification, "Layer ChainID"), numbered from 1.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    pub(super) by_chain: BTreeMap<String, Snapshot>,
}

#[derive(Debug)]
pub(super) struct Snapshot {
    id: u64,
    pub(super) parent: Option<String>,
    inodes: u64,
    size: u64,
}

impl Snapshots {
    pub(super) fn count(&self) -> u64 {
        self.by_chain.len() as u64
    }

    pub(super) fn add(
        &mut self,
        root: &mut Archive,
        layer: &StoredLayer,
        parent: Option<&str>,
    ) -> Result<String> {
        let chain = layers::chain_id(parent, layer);
        if self.by_chain.contains_key(&chain) {
            return Ok(chain);
        }
        let id = self.count() + 1;
        let (inodes, size) = layers::unpack(root, layer, &chain)?;
        let parent = parent.map(str::to_owned);
        self.by_chain.insert(
            chain.clone(),
            Snapshot {
                id,
                parent,
                inodes,
                size,
            },
        );
        Ok(chain)
    }

    /// Number and folder in the image root of each snapshot.
    pub(super) fn folders(&self) -> impl Iterator<Item = (u64, String)> {
        self.by_chain
            .iter()
            .map(|(chain, snapshot)| (snapshot.id, layers::folder(chain)))
    }

    /// The name of a snapshot in the metadata database and in the snapshotter.
    pub(super) fn backend_name(&self, chain: &str) -> String {
        let id = self.by_chain.get(chain).map_or(0, |s| s.id);
        format!("{NAMESPACE}/{id}/{chain}")
    }

    /// The snapshotter's own database.
    pub(super) fn database(&self) -> Bucket {
        let mut root = Bucket::default();
        let version = root.bucket("v1");
        version.bucket("parents");
        version.bucket("snapshots").set_sequence(self.count());
        for (chain, snapshot) in &self.by_chain {
            let name = self.backend_name(chain);
            if let Some(parent) = &snapshot.parent {
                let parent_id = self.by_chain.get(parent).map_or(0, |p| p.id);
                let mut link = uvarint(parent_id);
                link.push(0);
                link.extend(uvarint(snapshot.id));
                version.bucket("parents").put(link, name.clone());
            }
            let entry = version.bucket("snapshots").bucket(name);
            entry.put("id", uvarint(snapshot.id));
            entry.put("kind", [COMMITTED]);
            if let Some(parent) = &snapshot.parent {
                entry.put("parent", self.backend_name(parent));
            }
            entry.put("inodes", varint(snapshot.inodes as i64));
            entry.put("size", varint(snapshot.size as i64));
            dated(entry);
        }
        root
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::image::layers::LAYERS;

    /// The folder of each layer, by its digest, when images are added in the given order.
    fn folders(order: &[&str]) -> BTreeMap<String, String> {
        let mut root = Archive::default();
        let mut snapshots = Snapshots::default();
        for name in order {
            // The end of an empty tar: two blocks of zeros.
            let tar = tempfile::tempfile().expect("a temporary file");
            tar.set_len(1024).expect("growing a temporary file");
            let layer = StoredLayer {
                diff_id: format!("sha256:{name}"),
                size: 1024,
                tar: Arc::new(tar),
            };
            snapshots
                .add(&mut root, &layer, None)
                .expect("an empty layer");
        }
        let numbers: BTreeMap<_, _> = snapshots.folders().collect();
        snapshots
            .by_chain
            .iter()
            .map(|(chain, snapshot)| (chain.clone(), numbers[&snapshot.id].clone()))
            .collect()
    }

    #[test]
    fn folder_of_a_layer_does_not_depend_on_other_images() {
        let one = folders(&["aa", "bb"]);
        let other = folders(&["cc", "bb", "aa"]);
        assert_eq!(one["sha256:bb"], format!("{LAYERS}/bb"));
        assert!(one.iter().all(|(chain, folder)| other[chain] == *folder));
    }
}
