//! Reads the descriptions of an image archive: OCI layout (`index.json`) or docker archive
//! (`manifest.json`).
//!
//! An archive with both is read as OCI, whose descriptions have digests. Formats: OCI image-spec
//! 1.1 `image-layout`, `manifest`, `config`; Docker Image Specification v1.2, "Combined Image JSON
//! + Filesystem Changeset Format".

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::digest;

/// The entries of an image archive.
pub(in crate::package) trait Entries {
    fn size(&self, name: &str) -> Option<u64>;

    /// The contents of a description, which must exist.
    fn description(&self, name: &str) -> Result<Vec<u8>>;
}

/// An image as its archive describes it.
#[derive(Debug, Clone)]
pub(crate) struct Described {
    pub(crate) references: Vec<String>,
    pub(super) config: Vec<u8>,
    pub(crate) config_digest: String,
    pub(super) layers: Vec<DescribedLayer>,
}

#[derive(Debug, Clone)]
pub(super) struct DescribedLayer {
    pub(super) diff_id: String,
    pub(super) digest: Option<String>,
    /// The entry of the archive.
    pub(super) entry: String,
    pub(super) size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct ImageIndex {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct DockerManifest {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    architecture: String,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

pub(in crate::package) fn images(index: &impl Entries) -> Result<Vec<Described>> {
    if index.size("index.json").is_some() && index.size("oci-layout").is_some() {
        oci(index)
    } else if index.size("manifest.json").is_some() {
        docker(index)
    } else {
        bail!(
            "it has neither `index.json` (OCI layout) nor `manifest.json` (docker archive); is it \
             an image archive?"
        )
    }
}

fn oci(index: &impl Entries) -> Result<Vec<Described>> {
    let top: ImageIndex = parse("index.json", &index.description("index.json")?)?;
    let named = top.manifests.iter().any(|entry| name_of(entry).is_some());
    if !named && index.size("manifest.json").is_some() {
        return docker(index);
    }
    // An image with several names has an entry for each.
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in top.manifests {
        let name = name_of(&entry).map(str::to_owned);
        let Some(manifest) = choose(index, entry.digest.clone(), &entry)? else {
            continue;
        };
        let names = names.entry(manifest).or_default();
        names.extend(name.map(|name| full_name(&name)));
    }
    let mut images = Vec::new();
    for (digest, references) in names {
        ensure!(
            !references.is_empty(),
            "image `{digest}` has no name; write the archive with one, as `ctr images export` and \
             `docker save NAME` do"
        );
        let manifest: Manifest = parse(&digest, &checked(index, &digest)?)?;
        let layers = manifest
            .layers
            .iter()
            .map(|l| (blob(&l.digest), Some(l.digest.clone()), Some(l.size)))
            .collect();
        let config = checked(index, &manifest.config.digest)?;
        images.push(image(index, references, config, layers)?);
    }
    ensure!(!images.is_empty(), "it has no image for linux/amd64");
    Ok(images)
}

/// A bare tag in the name that the OCI defines is no name of an image.
fn name_of(entry: &Descriptor) -> Option<&str> {
    let annotation = |key: &str| entry.annotations.get(key).map(String::as_str);
    annotation("io.containerd.image.name").or_else(|| {
        annotation("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']))
    })
}

/// The manifest of a descriptor: itself, or that for linux/amd64 if the descriptor is an index.
fn choose(index: &impl Entries, digest: String, descriptor: &Descriptor) -> Result<Option<String>> {
    let here = |p: &Platform| p.architecture == "amd64" && p.os == "linux";
    if !(descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list"))
    {
        return Ok(descriptor
            .platform
            .as_ref()
            .is_none_or(here)
            .then_some(digest));
    }
    let inner: ImageIndex = parse(&digest, &checked(index, &digest)?)?;
    let found = inner
        .manifests
        .into_iter()
        .find(|d| d.platform.as_ref().is_some_and(here));
    Ok(found.map(|d| d.digest))
}

fn docker(index: &impl Entries) -> Result<Vec<Described>> {
    let manifests: Vec<DockerManifest> =
        parse("manifest.json", &index.description("manifest.json")?)?;
    let mut images = Vec::new();
    for manifest in manifests {
        let references: BTreeSet<String> = manifest
            .tags
            .unwrap_or_default()
            .iter()
            .map(|tag| full_name(tag))
            .collect();
        ensure!(
            !references.is_empty(),
            "image `{}` has no name; write the archive by name (`docker save NAME`), not by id",
            manifest.config
        );
        let config = index.description(&manifest.config)?;
        // A name that is a digest, `<digest>.json` or `blobs/sha256/<digest>`, must match.
        let name = manifest
            .config
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .trim_end_matches(".json");
        if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
            compare(&manifest.config, &config, &format!("sha256:{name}"))?;
        }
        let layers = manifest
            .layers
            .into_iter()
            .map(|name| (name, None, None))
            .collect();
        images.push(image(index, references, config, layers)?);
    }
    ensure!(!images.is_empty(), "its `manifest.json` lists no image");
    Ok(images)
}

type Stored = (String, Option<String>, Option<u64>);

/// Joins a configuration with its layers: entry, and digest and size if known.
fn image(
    index: &impl Entries,
    references: BTreeSet<String>,
    config: Vec<u8>,
    stored: Vec<Stored>,
) -> Result<Described> {
    let references: Vec<String> = references.into_iter().collect();
    let name = references.join(", ");
    let parsed: Config = parse(&format!("configuration of {name}"), &config)?;
    ensure!(
        parsed.architecture.is_empty() || parsed.architecture == "amd64",
        "image `{name}` is for {}, and the node image is for amd64",
        parsed.architecture
    );
    ensure!(
        parsed.rootfs.diff_ids.len() == stored.len(),
        "image `{name}` has {} layers in its configuration and {} in its manifest",
        parsed.rootfs.diff_ids.len(),
        stored.len()
    );
    let mut layers = Vec::new();
    for (diff_id, (entry, digest, size)) in parsed.rootfs.diff_ids.into_iter().zip(stored) {
        let found = index
            .size(&entry)
            .with_context(|| format!("layer `{entry}` of image `{name}` is missing"))?;
        ensure!(
            size.is_none_or(|size| size == found),
            "layer `{entry}` of image `{name}` has {} bytes instead of {}",
            found,
            size.unwrap_or_default()
        );
        layers.push(DescribedLayer {
            diff_id,
            digest,
            size: found,
            entry,
        });
    }
    let config_digest = digest::digest(&config);
    Ok(Described {
        references,
        config,
        config_digest,
        layers,
    })
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// The description with the digest `digest`, verified.
fn checked(index: &impl Entries, digest: &str) -> Result<Vec<u8>> {
    ensure!(
        digest.starts_with("sha256:"),
        "digest `{digest}` is not SHA-256, the only supported algorithm"
    );
    let bytes = index.description(&blob(digest))?;
    compare(&blob(digest), &bytes, digest)?;
    Ok(bytes)
}

fn compare(name: &str, bytes: &[u8], expected: &str) -> Result<()> {
    let found = digest::digest(bytes);
    ensure!(
        found == expected,
        "`{name}` has the digest `{found}` instead of `{expected}`; the archive is damaged"
    );
    Ok(())
}

fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).with_context(|| format!("reading `{name}`"))
}

/// The name with registry and tag, as the runtime has it: `docker.io/library/nginx:latest` for
/// `nginx`.
pub(crate) fn full_name(name: &str) -> String {
    let name = name
        .strip_prefix("index.")
        .filter(|rest| rest.starts_with("docker.io/"))
        .unwrap_or(name);
    let tagged = if name.rsplit('/').next().unwrap_or(name).contains(':') {
        name.to_owned()
    } else {
        format!("{name}:latest")
    };
    match tagged.split_once('/') {
        None => format!("docker.io/library/{tagged}"),
        // docker.io/nginx is docker.io/library/nginx.
        Some(("docker.io", rest)) if !rest.contains('/') => format!("docker.io/library/{rest}"),
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => tagged,
        Some(_) => format!("docker.io/{tagged}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_get_registry_and_tag() {
        for (short, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("calico/cni:v3", "docker.io/calico/cni:v3"),
            ("k8s.gcr.io/pause:3.2", "k8s.gcr.io/pause:3.2"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("docker.io/nginx:1", "docker.io/library/nginx:1"),
            ("index.docker.io/calico/cni:v3", "docker.io/calico/cni:v3"),
        ] {
            assert_eq!(full_name(short), full);
        }
    }
}
