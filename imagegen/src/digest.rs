//! SHA-256 digests as the OCI and the manifest write them: `sha256:…`.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

pub use build_tools::cache::hex;

/// The digest of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    text(Sha256::new_with_prefix(bytes))
}

/// The digest of a file of any size.
pub fn digest_file(path: &Path) -> Result<String> {
    let doing = || format!("reading `{}`", path.display());
    let mut file = fs::File::open(path).with_context(doing)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(doing)? {
            0 => return Ok(text(hash)),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// The digest of everything that `hash` was updated with.
pub fn text(hash: Sha256) -> String {
    format!("sha256:{}", hex(&hash.finalize()))
}
