//! Reading image archives: what `docker save`, `ctr images export` and others write, plain or compressed.
//!
//! Every byte that is given out was checked: descriptions against their digests when the archive is opened, layers
//! against their `diff_id` while they are read. It does not unpack layers, and knows no registry.

mod describe;
mod index;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use self::index::Slice;
use super::stream;
use build_tools::cache::hex;

/// The images of one archive.
#[derive(Debug)]
pub struct ImageArchive {
    pub images: Vec<Image>,
}

#[derive(Debug, Clone)]
pub struct Image {
    /// Full names with tags, sorted: `k8s.gcr.io/pause:3.2`, `docker.io/library/nginx:1.19`.
    pub references: Vec<String>,
    /// The image's configuration as its digest covers it.
    pub config: Vec<u8>,
    /// `sha256:…` of `config`.
    pub config_digest: String,
    /// Bottom first.
    pub layers: Vec<Layer>,
}

#[derive(Debug, Clone)]
pub struct Layer {
    /// `sha256:…` of the uncompressed tar, from the image's configuration.
    pub diff_id: String,
    /// Digest of the layer as it lies in the archive, where the archive tells it (OCI).
    pub digest: Option<String>,
    /// Bytes in the archive, maybe compressed.
    pub size: u64,
    archive: Arc<File>,
    slice: Slice,
}

impl ImageArchive {
    /// Reads the archive's list of entries and the descriptions in it, not the layers.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).with_context(|| format!("opening the image archive `{}`", path.display()))
    }

    /// Reads the archive `name` of the package that is unpacked at `folder`; errors call it by that name, since the
    /// folder is gone when they are read.
    pub fn of_package(folder: &Path, name: &str) -> Result<Self> {
        Self::read(&folder.join(name))
            .with_context(|| format!("opening the image archive `{name}` of the package"))
    }

    fn read(path: &Path) -> Result<Self> {
        let index = index::Index::open(path)?;
        Ok(Self {
            images: describe::images(&index)?,
        })
    }
}

impl Layer {
    /// The uncompressed tar. At its end the digest is compared; a layer that differs ends in an error, not in an end.
    pub fn open(&self) -> Result<Box<dyn Read + Send>> {
        let bytes = io::BufReader::with_capacity(1 << 18, self.slice.reader(&self.archive));
        let inner = stream::decompress(bytes)
            .with_context(|| format!("reading layer `{}`", self.diff_id))?;
        Ok(Box::new(Checked {
            inner,
            hash: Some(Sha256::new()),
            wanted: self.diff_id.clone(),
        }))
    }

    /// Writes the whole uncompressed tar to `out`, checked; returns its bytes.
    pub fn copy_to(&self, out: &mut impl Write) -> Result<u64> {
        io::copy(&mut self.open()?, out)
            .with_context(|| format!("unpacking layer `{}`", self.diff_id))
    }
}

/// Compares what was read with a digest when the end is reached.
struct Checked<R> {
    inner: R,
    hash: Option<Sha256>,
    wanted: String,
}

impl<R> fmt::Debug for Checked<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checked({})", self.wanted)
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
            let found = format!("sha256:{}", hex(&hash.finalize()));
            if found != self.wanted {
                let text = format!(
                    "the layer's contents have the digest `{found}` and not `{}`; the archive is damaged",
                    self.wanted
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
