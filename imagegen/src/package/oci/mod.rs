//! Reads image archives, plain or compressed, as `docker save` and `ctr images export` write them.
//!
//! Every byte is verified: descriptions against their digests when an archive is opened, layers
//! against their `diff_id` while they are read. This module neither unpacks layers nor uses a
//! registry.

pub(crate) mod describe;
mod folder;
pub(super) mod index;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use self::describe::Entries;
use self::index::Slice;
use super::stream;
use crate::digest;

/// The size limit of a description.
const DESCRIPTION: u64 = 8 << 20;

/// The images of one archive, or of one that was unpacked into a folder.
#[derive(Debug)]
pub struct ImageArchive {
    pub images: Vec<Image>,
}

#[derive(Debug, Clone)]
pub struct Image {
    /// Full names with tags, sorted: `k8s.gcr.io/pause:3.2`, `docker.io/library/nginx:1.19`.
    pub references: Vec<String>,
    /// The bytes of the image's configuration.
    pub config: Vec<u8>,
    /// Digest of `config`, `sha256:…`.
    pub config_digest: String,
    /// From the bottom up.
    pub layers: Vec<Layer>,
}

#[derive(Debug, Clone)]
pub struct Layer {
    /// Digest of the uncompressed tar, `sha256:…`, from the image's configuration.
    pub diff_id: String,
    /// Digest of the layer's bytes in the archive, if the archive has it (OCI).
    pub digest: Option<String>,
    /// Size in the archive in bytes, possibly compressed.
    pub size: u64,
    bytes: Bytes,
}

/// Where the bytes of a layer are. Files are opened when they are read: a folder has hundreds.
#[derive(Debug, Clone)]
enum Bytes {
    Part(Arc<File>, Slice),
    File(PathBuf),
}

impl ImageArchive {
    /// Reads the archive's entries and descriptions, but not its layers.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).with_context(|| format!("opening the image archive `{}`", path.display()))
    }

    /// Reads the archive `name` of the package unpacked at `folder`. Errors use that name, because
    /// the folder is temporary.
    pub fn of_package(folder: &Path, name: &str) -> Result<Self> {
        Self::read(&folder.join(name))
            .with_context(|| format!("opening the image archive `{name}` of the package"))
    }

    fn read(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let folder = folder::Folder(path);
            return Self::of(&folder, |entry| Ok(Bytes::File(folder.path(entry)?)));
        }
        let index = index::Index::open(path)?;
        Self::of(&index, |entry| {
            let slice = index.get(entry).context("seen above")?;
            Ok(Bytes::Part(Arc::clone(&index.file), slice))
        })
    }

    fn of(entries: &impl Entries, bytes: impl Fn(&str) -> Result<Bytes>) -> Result<Self> {
        let mut images = Vec::new();
        for image in describe::images(entries)? {
            let mut layers = Vec::new();
            for layer in image.layers {
                layers.push(Layer {
                    bytes: bytes(&layer.entry)?,
                    diff_id: layer.diff_id,
                    digest: layer.digest,
                    size: layer.size,
                });
            }
            images.push(Image {
                references: image.references,
                config: image.config,
                config_digest: image.config_digest,
                layers,
            });
        }
        Ok(Self { images })
    }
}

impl Layer {
    /// The uncompressed tar. A layer whose digest differs ends with an error.
    pub fn open(&self) -> Result<Box<dyn Read + Send>> {
        let reading = || format!("reading layer `{}`", self.diff_id);
        let bytes: Box<dyn Read + Send> = match &self.bytes {
            Bytes::Part(archive, slice) => Box::new(slice.reader(archive)),
            Bytes::File(path) => Box::new(File::open(path).with_context(reading)?),
        };
        let inner = stream::decompress(io::BufReader::with_capacity(1 << 18, bytes))
            .with_context(reading)?;
        Ok(Box::new(Checked {
            inner,
            hash: Some(Sha256::new()),
            expected: self.diff_id.clone(),
        }))
    }

    /// Writes the verified uncompressed tar to `out` and returns its size.
    pub fn copy_to(&self, out: &mut impl Write) -> Result<u64> {
        io::copy(&mut self.open()?, out)
            .with_context(|| format!("unpacking layer `{}`", self.diff_id))
    }
}

/// A reader that compares the digest at the end.
struct Checked<R> {
    inner: R,
    hash: Option<Sha256>,
    expected: String,
}

impl<R> fmt::Debug for Checked<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checked({})", self.expected)
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if n > 0 {
            if let Some(hash) = &mut self.hash {
                hash.update(&buffer[..n]);
            }
        } else if !buffer.is_empty()
            && let Some(hash) = self.hash.take()
        {
            let found = digest::text(hash);
            if found != self.expected {
                let text = format!(
                    "the layer has the digest `{found}` instead of `{}`; the archive is damaged",
                    self.expected
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
