//! `images/images.tar`: all images as one OCI layout that is a docker archive too. A layer that
//! several images share is in it once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use build_tools::cache::hex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, Header};

use super::skopeo::Pulled;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// Where blobs are.
pub(super) trait Blob {
    fn path(&self, digest: &str) -> PathBuf;
}

/// Writes all images to `path`. Every blob is compared with its digest.
pub(super) fn write(path: &Path, images: &[Pulled], arch: &str, blobs: &impl Blob) -> Result<()> {
    let mut files: BTreeMap<String, &str> = BTreeMap::new();
    for image in images {
        let parts = image.layers.iter().chain([&image.config, &image.manifest]);
        for part in parts {
            files.insert(entry(&part.digest), &part.digest);
        }
    }
    let writing = || format!("writing `{}`", path.display());
    let file = File::create(path).with_context(writing)?;
    let mut archive = Builder::new(BufWriter::with_capacity(1 << 20, file));
    for (name, digest) in files {
        blob(&mut archive, &name, &blobs.path(digest), digest)?;
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": images.iter().map(|image| json!({
            "mediaType": image.manifest.media_type,
            "digest": image.manifest.digest,
            "size": image.manifest.size,
            "platform": {"architecture": arch, "os": "linux"},
            "annotations": {
                "io.containerd.image.name": image.name,
                "org.opencontainers.image.ref.name": tag(&image.name),
            },
        })).collect::<Vec<_>>(),
    });
    let docker: Vec<_> = images
        .iter()
        .map(|image| {
            json!({
                "Config": entry(&image.config.digest),
                "RepoTags": [image.name],
                "Layers": image.layers.iter().map(|l| entry(&l.digest)).collect::<Vec<_>>(),
            })
        })
        .collect();
    for (name, value) in [
        ("index.json", index),
        ("manifest.json", json!(docker)),
        ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
    ] {
        let text = serde_json::to_vec(&value).with_context(writing)?;
        let mut header = header(text.len() as u64);
        archive
            .append_data(&mut header, name, text.as_slice())
            .with_context(writing)?;
    }
    archive
        .into_inner()
        .and_then(|mut out| out.flush())
        .with_context(writing)
}

fn entry(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn tag(name: &str) -> &str {
    name.rsplit_once(':').map_or("latest", |(_, tag)| tag)
}

/// No dates and no owners: the same images give the same bytes.
fn header(size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn blob(
    archive: &mut Builder<BufWriter<File>>,
    name: &str,
    path: &Path,
    digest: &str,
) -> Result<()> {
    let file = File::open(path).with_context(|| format!("opening `{}`", path.display()))?;
    let size = file
        .metadata()
        .with_context(|| format!("reading `{}`", path.display()))?
        .len();
    let mut reader = Hashing {
        inner: file,
        hash: Sha256::new(),
    };
    archive
        .append_data(&mut header(size), name, &mut reader)
        .with_context(|| format!("copying `{}`", path.display()))?;
    let found = format!("sha256:{}", hex(&reader.hash.finalize()));
    if found != digest {
        // The next run fetches it again.
        fs::remove_file(path).with_context(|| format!("removing `{}`", path.display()))?;
        anyhow::bail!(
            "`{}` has changed in the cache and is removed; run the command again",
            path.display()
        );
    }
    Ok(())
}

struct Hashing {
    inner: File,
    hash: Sha256,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}
