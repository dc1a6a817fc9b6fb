//! The manifest: the digest of everything that went into an output folder and of everything that came out.
//!
//! It also marks a folder as ours. It decides nothing: what is up to date is found by comparing bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::image::ImageReport;
use build_tools::cache::hex;
use userdata::contract::API_VERSION;

/// Its name in the output folder.
pub const FILE: &str = "manifest.json";

const KIND: &str = "Manifest";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    /// What was given: `topology`, `package`, …; `sha256:…`.
    pub inputs: BTreeMap<String, String>,
    /// What was made, by its path in the folder; `sha256:…`.
    pub outputs: BTreeMap<String, String>,
    /// What is to be known of the node image besides its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageReport>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            image: None,
        }
    }
}

impl Manifest {
    /// The manifest of `folder`, or `None` where there is none.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("reading `{}`", path.display()));
            }
        };
        let doing = || {
            format!(
                "reading `{}`; is `{}` an output folder of imagegen?",
                path.display(),
                folder.display()
            )
        };
        let manifest: Self = serde_json::from_slice(&text).with_context(doing)?;
        ensure!(
            manifest.api_version == API_VERSION && manifest.kind == KIND,
            "`{}` is a `{}` of `{}`, not a `{KIND}` of `{API_VERSION}`; give another folder with --output",
            path.display(),
            manifest.kind,
            manifest.api_version
        );
        Ok(Some(manifest))
    }

    /// As it is written.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).context("writing the manifest")?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Forgets the outputs at `path` and below it.
    pub fn forget(&mut self, path: &str) {
        self.outputs.retain(|output, _| {
            output
                .strip_prefix(path)
                .is_none_or(|rest| !(rest.is_empty() || rest.starts_with('/')))
        });
    }
}

/// `sha256:…`
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Of a file that may be large; `sha256:…`
pub fn digest_file(path: &Path) -> Result<String> {
    let doing = || format!("reading `{}`", path.display());
    let mut file = fs::File::open(path).with_context(doing)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(doing)? {
            0 => return Ok(format!("sha256:{}", hex(&digest.finalize()))),
            n => digest.update(&buffer[..n]),
        }
    }
}
