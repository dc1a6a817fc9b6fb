//! Writes the package's images as containerd stores them: unpacked, named, and managed by its CRI
//! plug-in.
//!
//! The state partition gets containerd's two databases, the images' manifests and configurations,
//! and one link per layer. containerd does not run here: this module writes the store as
//! containerd's sources define it (containerd 1.7 `metadata/buckets.go`,
//! `snapshots/storage/bolt.go`), which gives the same bytes each time.

use std::collections::BTreeMap;

use anyhow::Result;
use build_tools::debian_tree::SOURCE_DATE_EPOCH;
use serde_json::json;

use super::bbolt::{self, Bucket};
use super::encoding::{go_time, varint};
use super::snapshots::Snapshots;
use crate::digest::digest;
use crate::image::archive::Archive;
use crate::image::layers::{LAYERS, StoredImage};

/// containerd's namespace for Kubernetes.
pub(super) const NAMESPACE: &str = "k8s.io";
const SNAPSHOTTER: &str = "overlayfs";
/// containerd's `metadata.dbVersion` in 1.6 and 1.7; newer ones migrate it.
const METADATA_VERSION: i64 = 3;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// Adds `images` to `root`: layers below [`LAYERS`], the rest below `state`, which becomes `/var`.
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
        // The CRI plug-in looks images up by id, which is the digest of the configuration.
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
        // This label protects the unpacked layers from containerd's garbage collector.
        let reference = chain.map(|chain| {
            (
                format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"),
                chain,
            )
        });
        blobs.insert(
            config.digest.clone(),
            config.labelled(reference.into_iter().collect()),
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
    for (id, folder) in snapshots.folders() {
        root.symlink(
            &format!("{snapshotter}/snapshots/{id}"),
            &format!("/{folder}"),
        );
    }
    root.file(
        &format!("{containerd}/io.containerd.metadata.v1.bolt/meta.db"),
        0o644,
        bbolt::serialize(&metadata(&names, &blobs, &snapshots))?,
    );
    root.file(
        &format!("{snapshotter}/metadata.db"),
        0o600,
        bbolt::serialize(&snapshots.database())?,
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
            digest: digest(&bytes),
            bytes,
            labels: Vec::new(),
        }
    }

    fn labelled(self, labels: Vec<(String, String)>) -> Self {
        Self { labels, ..self }
    }
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
        // Pinned: there is no registry to pull a dropped image from.
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

pub(super) fn dated(bucket: &mut Bucket) {
    for key in ["createdat", "updatedat"] {
        bucket.put(key, go_time(SOURCE_DATE_EPOCH));
    }
}

/// The part of the image's key that this module decides.
pub(in crate::image) fn recipe() -> String {
    let types = (MANIFEST_TYPE, CONFIG_TYPE, LAYER_TYPE);
    format!(
        "{:?}",
        (NAMESPACE, SNAPSHOTTER, METADATA_VERSION, LAYERS, types)
    )
}
