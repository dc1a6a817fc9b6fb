//! The software bill of materials of an image: `node.cdx.json`, CycloneDX 1.6 in JSON.
//!
//! It names Debian's packages, the crates in the programs of this repository, the container images
//! of the package, and the Go programs with their modules, in the root and in the images. The same
//! image has the same bytes: there is no time of the build, and the serial number is a digest.

mod debian;
mod go;
mod rust;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use uuid::Builder;

use super::archive::{Archive, Content};
use super::layers::StoredImage;
use crate::digest::digest;

pub(super) use debian::Packages;

/// What an image holds that its root does not tell.
pub(super) struct Sources<'a> {
    /// Debian's packages of the root, and of the trees that kernel, boot stub and initrd are from.
    pub(super) packages: Vec<Packages>,
    pub(super) images: &'a [StoredImage],
    /// The whole root with the layers of the images.
    pub(super) root: &'a Archive,
    pub(super) root_hash: &'a str,
}

/// Components by their reference, each once.
type Components = BTreeMap<String, Value>;

/// The bill of materials.
pub(super) fn write(sources: &Sources<'_>) -> Result<Vec<u8>> {
    let mut components = Components::new();
    for packages in &sources.packages {
        packages.add(&mut components);
    }
    rust::add(&mut components)?;
    for image in sources.images {
        container(image, &mut components);
    }
    for (path, entry) in sources.root.iter() {
        let Content::File(data) = &entry.content else {
            continue;
        };
        let program = go::read(&mut *data.reader()?);
        if let Some(program) = program.with_context(|| format!("reading `{path}`"))? {
            program.add(path, &mut components);
        }
    }
    let components: Vec<Value> = components.into_values().collect();
    let digest = digest(serde_json::to_string(&components)?.as_bytes());
    let mut id = [0; 16];
    for (byte, pair) in id
        .iter_mut()
        .zip(digest.trim_start_matches("sha256:").as_bytes().chunks(2))
    {
        *byte = u8::from_str_radix(std::str::from_utf8(pair)?, 16)?;
    }
    let document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": Builder::from_custom_bytes(id).into_uuid().urn().to_string(),
        "version": 1,
        "metadata": {
            "tools": { "components": [{
                "type": "application",
                "name": "imagegen",
                "version": env!("CARGO_PKG_VERSION"),
            }] },
            "component": {
                "type": "operating-system",
                "bom-ref": "node-image",
                "name": "firstlight-node",
                "version": env!("CARGO_PKG_VERSION"),
                // dm-verity's, with which the kernel checks the root.
                "properties": [{ "name": "firstlight:root-hash", "value": sources.root_hash }],
            },
        },
        "components": components,
    });
    let mut bytes =
        serde_json::to_vec_pretty(&document).context("writing the bill of materials")?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn container(image: &StoredImage, components: &mut Components) {
    let id = digest(&image.config);
    for reference in &image.references {
        // A port may stand in the registry's name, and a tag behind the last part.
        let (name, tag) = match reference.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (reference.as_str(), ""),
        };
        let last = name.rsplit('/').next().unwrap_or(name);
        let purl = format!(
            "pkg:oci/{}@{}?repository_url={}&tag={}",
            escaped(&last.to_lowercase()),
            escaped(&id),
            escaped(name),
            escaped(tag)
        );
        let component = json!({
            "type": "container",
            "bom-ref": purl,
            "name": name,
            "version": tag,
            "purl": purl,
            "hashes": [{ "alg": "SHA-256", "content": id.trim_start_matches("sha256:") }],
        });
        components.insert(purl, component);
    }
}

/// A library with a package URL.
fn library(name: &str, version: &str, purl: String, components: &mut Components) {
    let component = json!({
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    });
    components.insert(purl, component);
}

/// A part of a package URL, with its other characters as `%XX`.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests;
