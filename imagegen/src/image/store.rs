//! The package's images as containerd finds them: unpacked, named, and managed by its CRI plug-in.
//!
//! Layers become read-only folders of the image root, under dm-verity; the state partition gets only containerd's two
//! databases, the images' manifests and configurations, and one link per layer. So first boot imports nothing, and
//! what containers run from is verified. containerd itself does not run here: its store is written as its own sources
//! describe it (containerd 1.7 `metadata/buckets.go`, `snapshots/storage/bolt.go`), which makes it the same bytes
//! each time.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::archive::{Archive, Placed};
use super::bolt::{self, Bucket};
use crate::cache::hex;
use crate::tree::SOURCE_DATE_EPOCH;

/// containerd's namespace for Kubernetes.
const NAMESPACE: &str = "k8s.io";
const SNAPSHOTTER: &str = "overlayfs";
/// containerd's `metadata.dbVersion` in 1.6 and 1.7; newer ones migrate it.
const METADATA_VERSION: i64 = 3;
/// containerd's `snapshots.KindCommitted`.
const COMMITTED: u8 = 3;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// Where the layers lie in the image root.
pub const LAYERS: &str = "usr/share/firstlight/images";

/// One image to be put into the store.
#[derive(Debug)]
pub struct StoredImage {
    /// `repository:tag` names.
    pub references: Vec<String>,
    pub config: Vec<u8>,
    /// Bottom first.
    pub layers: Vec<StoredLayer>,
}

/// One layer, uncompressed on the building host's disk.
#[derive(Debug, Clone)]
pub struct StoredLayer {
    /// `sha256:…` of the uncompressed tar.
    pub diff_id: String,
    pub size: u64,
    pub tar: std::sync::Arc<std::fs::File>,
}

/// Puts `images` into `root`: layers under [`LAYERS`], the rest below `state` (what becomes `/var`).
pub fn write(root: &mut Archive, state: &str, images: &[StoredImage]) -> Result<()> {
    let mut snapshots = Snapshots::default();
    let mut blobs: BTreeMap<String, Blob> = BTreeMap::new();
    let mut names: BTreeMap<String, Target> = BTreeMap::new();

    for image in images {
        let mut chain: Option<String> = None;
        for layer in &image.layers {
            chain = Some(snapshots.add(root, layer, chain.as_deref())?);
        }
        let config = Blob::new(image.config.clone());
        let manifest = Blob::new(manifest(image, &config));
        let target = Target {
            digest: manifest.digest.clone(),
            size: manifest.bytes.len(),
        };

        for reference in &image.references {
            names.insert(reference.clone(), target.clone());
        }
        // The CRI plug-in finds an image by its id, which is the digest of its configuration.
        names.insert(config.digest.clone(), target);

        let mut labels = vec![(
            "containerd.io/gc.ref.content.config".to_owned(),
            config.digest.clone(),
        )];
        labels.extend(image.layers.iter().enumerate().map(|(i, layer)| {
            (
                format!("containerd.io/gc.ref.content.l.{i}"),
                layer.diff_id.clone(),
            )
        }));
        blobs.insert(manifest.digest.clone(), manifest.labelled(labels));
        // The link that keeps the unpacked layers from containerd's garbage collector.
        let keeps = chain.map(|chain| {
            (
                format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"),
                chain,
            )
        });
        blobs.insert(
            config.digest.clone(),
            config.labelled(keeps.into_iter().collect()),
        );
    }

    let containerd = format!("{state}/lib/containerd");
    let content = format!("{containerd}/io.containerd.content.v1.content");
    let snapshotter = format!("{containerd}/io.containerd.snapshotter.v1.{SNAPSHOTTER}");
    for (directory, mode) in [
        (containerd.clone(), 0o711),
        (
            format!("{containerd}/io.containerd.metadata.v1.bolt"),
            0o711,
        ),
        (format!("{content}/blobs/sha256"), 0o755),
        (format!("{content}/ingest"), 0o755),
        (snapshotter.clone(), 0o700),
        (format!("{snapshotter}/snapshots"), 0o700),
    ] {
        root.directory(&directory, mode);
    }
    for blob in blobs.values() {
        let name = blob.digest.trim_start_matches("sha256:");
        root.file(
            &format!("{content}/blobs/sha256/{name}"),
            0o444,
            blob.bytes.clone(),
        );
    }
    for id in 1..=snapshots.count() {
        root.symlink(
            &format!("{snapshotter}/snapshots/{id}"),
            &format!("/{LAYERS}/{id}"),
        );
    }
    root.file(
        &format!("{containerd}/io.containerd.metadata.v1.bolt/meta.db"),
        0o644,
        bolt::serialize(&metadata(&names, &blobs, &snapshots)),
    );
    root.file(
        &format!("{snapshotter}/metadata.db"),
        0o600,
        bolt::serialize(&snapshots.database()),
    );
    Ok(())
}

#[derive(Debug, Clone)]
struct Target {
    digest: String,
    size: usize,
}

#[derive(Debug)]
struct Blob {
    digest: String,
    bytes: Vec<u8>,
    labels: Vec<(String, String)>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            digest: sha256(&bytes),
            bytes,
            labels: Vec::new(),
        }
    }

    fn labelled(self, labels: Vec<(String, String)>) -> Self {
        Self { labels, ..self }
    }
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn manifest(image: &StoredImage, config: &Blob) -> Vec<u8> {
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|l| json!({"mediaType": LAYER_TYPE, "digest": l.diff_id, "size": l.size}))
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": config.digest, "size": config.bytes.len()},
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

/// Committed snapshots by chain id (OCI image specification, "Layer ChainID"), numbered from 1.
#[derive(Debug, Default)]
struct Snapshots {
    by_chain: BTreeMap<String, Snapshot>,
}

#[derive(Debug)]
struct Snapshot {
    id: u64,
    parent: Option<String>,
    inodes: u64,
    size: u64,
}

impl Snapshots {
    fn count(&self) -> u64 {
        self.by_chain.len() as u64
    }

    fn add(
        &mut self,
        root: &mut Archive,
        layer: &StoredLayer,
        parent: Option<&str>,
    ) -> Result<String> {
        let chain = match parent {
            None => layer.diff_id.clone(),
            Some(parent) => sha256(format!("{parent} {}", layer.diff_id).as_bytes()),
        };
        if self.by_chain.contains_key(&chain) {
            return Ok(chain);
        }
        let id = self.count() + 1;
        let folder = format!("{LAYERS}/{id}/fs");
        root.directory(&folder, 0o755);
        root.add_tar(&layer.tar, |path| Some(place(&folder, path)))
            .with_context(|| format!("unpacking layer `{}`", layer.diff_id))?;
        let (inodes, size) = root.usage(&folder);
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

    /// The name by which the metadata database and the snapshotter know a snapshot of the namespace.
    fn backend_name(&self, chain: &str) -> String {
        let id = self.by_chain.get(chain).map_or(0, |s| s.id);
        format!("{NAMESPACE}/{id}/{chain}")
    }

    /// The snapshotter's own database.
    fn database(&self) -> Bucket {
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

/// Where a layer's entry goes below `folder`, with the whiteouts of the OCI image specification made overlayfs's own.
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

fn metadata(
    names: &BTreeMap<String, Target>,
    blobs: &BTreeMap<String, Blob>,
    snapshots: &Snapshots,
) -> Bucket {
    let mut root = Bucket::default();
    let version = root.bucket("v1");
    version.put("version", varint(METADATA_VERSION));
    let namespace = version.bucket(NAMESPACE);

    for (name, target) in names {
        let image = namespace.at(&["images", name]);
        dated(image);
        image
            .bucket("labels")
            .put("io.cri-containerd.image", "managed");
        // Pinned: what is baked in cannot be had again, so no garbage collector may drop it.
        image
            .bucket("labels")
            .put("io.cri-containerd.pinned", "pinned");
        let entry = image.bucket("target");
        entry.put("digest", target.digest.clone());
        entry.put("mediatype", MANIFEST_TYPE);
        entry.put("size", varint(target.size as i64));
    }
    for (digest, blob) in blobs {
        let entry = namespace.at(&["content", "blob", digest]);
        dated(entry);
        entry.put("size", varint(blob.bytes.len() as i64));
        for (label, value) in &blob.labels {
            entry.bucket("labels").put(label.clone(), value.clone());
        }
    }
    let known = namespace.at(&["snapshots", SNAPSHOTTER]);
    known.set_sequence(snapshots.count());
    for (chain, snapshot) in &snapshots.by_chain {
        let entry = known.bucket(chain.clone());
        entry.put("name", snapshots.backend_name(chain));
        dated(entry);
        if let Some(parent) = &snapshot.parent {
            entry.put("parent", parent.clone());
            known
                .at(&[parent, "children"])
                .put(chain.clone(), Vec::new());
        }
    }
    root
}

fn dated(bucket: &mut Bucket) {
    for key in ["createdat", "updatedat"] {
        bucket.put(key, go_time(SOURCE_DATE_EPOCH));
    }
}

/// Go's `time.Time.MarshalBinary`, version 1, in UTC: seconds since year 1, nanoseconds, zone offset.
fn go_time(unix: u64) -> Vec<u8> {
    const YEAR_ONE_TO_1970: u64 = 62_135_596_800;
    let mut bytes = vec![1];
    bytes.extend((unix + YEAR_ONE_TO_1970).to_be_bytes());
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend((-1_i16).to_be_bytes());
    bytes
}

/// Go's `binary.PutUvarint`.
fn uvarint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value as u8) | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Go's `binary.PutVarint`: zig-zag, then as [`uvarint`].
fn varint(value: i64) -> Vec<u8> {
    uvarint(((value << 1) ^ (value >> 63)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        assert_eq!(uvarint(1), [1]);
        assert_eq!(uvarint(300), [0xac, 0x02]);
        assert_eq!(varint(3), [6]);
        assert_eq!(varint(-1), [1]);
        // time.Unix(0, 0).UTC().MarshalBinary()
        assert_eq!(
            go_time(0),
            [
                1, 0, 0, 0, 0x0e, 0x77, 0x91, 0xf7, 0, 0, 0, 0, 0, 0xff, 0xff
            ]
        );
    }

    #[test]
    fn whiteouts_become_overlayfs_ones() {
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
