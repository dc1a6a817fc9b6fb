//! The manifest: digests of all inputs and outputs of an output folder.
//!
//! It also marks an output folder of imagegen. Only the image is looked up in it; whether any other
//! output is up to date is decided by its bytes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use userdata::contract::API_VERSION;

use super::beneath;
use crate::image::ImageReport;

/// Its name in the output folder.
pub const FILE: &str = "manifest.json";

const KIND: &str = "Manifest";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    /// Digests of `topology`, `package` and others, and the image's key.
    pub inputs: BTreeMap<String, String>,
    /// Digests by path in the folder.
    pub outputs: BTreeMap<String, String>,
    /// Figures of the node image.
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
    /// The manifest of `folder`, if it has one.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let Some(text) = beneath::read(folder, Path::new(FILE))? else {
            return Ok(None);
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
            "`{}` is a `{}` of `{}`, not a `{KIND}` of `{API_VERSION}`; give another folder with \
             --output",
            path.display(),
            manifest.kind,
            manifest.api_version
        );
        Ok(Some(manifest))
    }

    /// The contents of the file.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).context("writing the manifest")?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Removes the outputs at `path` and below it.
    pub fn remove_outputs(&mut self, path: &str) {
        self.outputs.retain(|output, _| {
            output
                .strip_prefix(path)
                .is_none_or(|rest| !(rest.is_empty() || rest.starts_with('/')))
        });
    }
}
