//! Container images as archives: an OCI layout that is a docker archive too, so that containerd and
//! docker both load it.
//!
//! Layers are not compressed: the package around them is, and the runtime unpacks them at once. The
//! same items give the same bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::tarball::{Item, Tarball};
use build_tools::cache::hex;

/// A layer's tar on this machine.
#[derive(Debug, Clone)]
pub(super) struct LayerFile {
    path: PathBuf,
    /// Hexadecimal SHA-256.
    digest: String,
    size: u64,
}

/// What to write.
pub(super) struct Image<'a> {
    /// `k8s.gcr.io/pause:3.2`.
    pub(super) reference: &'a str,
    pub(super) layers: &'a [LayerFile],
    pub(super) entrypoint: &'a [&'a str],
    pub(super) command: &'a [&'a str],
    /// Empty: root.
    pub(super) user: &'a str,
}

/// Writes a layer of `items` to `path`. Folders above the items are added with mode 0755.
pub(super) fn layer(path: &Path, items: &BTreeMap<String, Item>) -> Result<LayerFile> {
    let mut all = items.clone();
    for name in items.keys() {
        let mut above = name.as_str();
        while let Some((folder, _)) = above.rsplit_once('/') {
            all.entry(folder.to_owned())
                .or_insert(Item::Folder { mode: 0o755 });
            above = folder;
        }
    }
    let file = File::create(path).with_context(|| format!("creating `{}`", path.display()))?;
    let mut tarball = Tarball::new(Hashing {
        inner: BufWriter::new(file),
        hash: Sha256::new(),
        size: 0,
    });
    for (name, item) in &all {
        tarball.add(name, item)?;
    }
    let mut out = tarball.finish()?;
    out.flush()?;
    Ok(LayerFile {
        path: path.to_owned(),
        digest: hex(&out.hash.finalize()),
        size: out.size,
    })
}

/// Writes the image to `path`.
pub(super) fn write(path: &Path, image: &Image<'_>) -> Result<()> {
    let mut settings = json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "WorkingDir": "/",
    });
    for (key, words) in [("Entrypoint", image.entrypoint), ("Cmd", image.command)] {
        if !words.is_empty() {
            settings[key] = json!(words);
        }
    }
    if !image.user.is_empty() {
        settings["User"] = json!(image.user);
    }
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": settings,
        "rootfs": {
            "type": "layers",
            "diff_ids": image.layers.iter().map(|l| format!("sha256:{}", l.digest)).collect::<Vec<_>>(),
        },
        "history": image.layers.iter().map(|_| json!({
            "created": "1970-01-01T00:00:00Z",
            "created_by": "imagegen package",
        })).collect::<Vec<_>>(),
    }))?;
    let config_digest = hex(&Sha256::digest(&config));
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config_digest, config.len() as u64),
        "layers": image.layers.iter()
            .map(|l| descriptor("application/vnd.oci.image.layer.v1.tar", &l.digest, l.size))
            .collect::<Vec<_>>(),
    }))?;
    let manifest_digest = hex(&Sha256::digest(&manifest));

    let mut entry = descriptor(
        "application/vnd.oci.image.manifest.v1+json",
        &manifest_digest,
        manifest.len() as u64,
    );
    entry["annotations"] = json!({
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": image.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag),
    });
    entry["platform"] = json!({"architecture": "amd64", "os": "linux"});
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    }))?;
    let docker = serde_json::to_vec(&json!([{
        "Config": blob(&config_digest),
        "RepoTags": [image.reference],
        "Layers": image.layers.iter().map(|l| blob(&l.digest)).collect::<Vec<_>>(),
    }]))?;

    let mut items = BTreeMap::new();
    for (name, bytes) in [
        (blob(&config_digest), config),
        (blob(&manifest_digest), manifest),
        ("index.json".to_owned(), index),
        ("manifest.json".to_owned(), docker),
        (
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ),
    ] {
        items.insert(name, Item::Bytes { bytes, mode: 0o644 });
    }
    for layer in image.layers {
        items.insert(
            blob(&layer.digest),
            Item::Copy {
                from: layer.path.clone(),
                mode: 0o644,
            },
        );
    }
    let file = File::create(path).with_context(|| format!("creating `{}`", path.display()))?;
    let mut tarball = Tarball::new(BufWriter::new(file));
    for (name, item) in &items {
        tarball.add(name, item)?;
    }
    tarball
        .finish()?
        .flush()
        .with_context(|| format!("writing `{}`", path.display()))
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size})
}

/// Items for a copy of every one of `files` (as `(name in the image, file here)`), programs all.
pub(super) fn programs(files: &[(&str, PathBuf)]) -> BTreeMap<String, Item> {
    let copy = |from: &PathBuf| Item::Copy {
        from: from.clone(),
        mode: 0o755,
    };
    files
        .iter()
        .map(|(name, from)| ((*name).to_owned(), copy(from)))
        .collect()
}

/// The resolved file of a path that may be a symlink inside `tree` (links there may be absolute,
/// meant from its root).
pub(super) fn resolve(tree: &Path, name: &str) -> Result<PathBuf> {
    let mut at = tree.join(name);
    for _ in 0..8 {
        let Ok(to) = fs::read_link(&at) else {
            return Ok(at);
        };
        at = match to.strip_prefix("/") {
            Ok(absolute) => tree.join(absolute),
            Err(_) => at.parent().unwrap_or(tree).join(to),
        };
    }
    anyhow::bail!(
        "`{name}` in `{}` is a chain of links without an end",
        tree.display()
    )
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
