//! Writes the package's images as docker with its storage driver overlay2 stores them.
//!
//! Below `/var/lib/docker` are plain files only. `overlay2/` has a folder for each layer, whose
//! `diff` is a link into the image root; `image/overlay2/` names layers and images. docker does not
//! run here: this module writes what docker's sources define (`layer/filestore.go`,
//! `image/fs.go`, `reference/store.go`, `daemon/graphdriver/overlay2/overlay.go`), which gives the
//! same bytes each time. A test lets docker read it (`vm-tests/tests/docker_store.rs`).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::digest::digest;
use crate::image::archive::{Archive, tar_split};
use crate::image::layers::{self, StoredImage, StoredLayer};

/// docker's own limit is 128 layers below a container's, of which it makes two itself.
const MAX_LAYERS: usize = 126;

/// Adds `images` to `root`: layers below [`layers::LAYERS`], the rest below `state`, which becomes
/// `/var`.
pub fn write(root: &mut Archive, state: &str, images: &[StoredImage]) -> Result<()> {
    let docker = format!("{state}/lib/docker");
    let known = format!("{docker}/image/overlay2");
    for (path, mode) in [
        (docker.clone(), 0o710),
        (format!("{docker}/image"), 0o700),
        (known.clone(), 0o700),
        (format!("{known}/distribution"), 0o700),
        (format!("{known}/imagedb"), 0o700),
        (format!("{known}/imagedb/content"), 0o700),
        (format!("{known}/imagedb/content/sha256"), 0o700),
        (format!("{known}/imagedb/metadata"), 0o700),
        (format!("{known}/imagedb/metadata/sha256"), 0o700),
        (format!("{known}/layerdb"), 0o700),
        (format!("{known}/layerdb/sha256"), 0o755),
        (format!("{known}/layerdb/tmp"), 0o755),
        (format!("{docker}/overlay2"), 0o710),
        (format!("{docker}/overlay2/l"), 0o700),
    ] {
        root.directory(&path, mode);
    }
    let mut written = BTreeSet::new();
    let mut names: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for image in images {
        ensure!(
            image.layers.len() <= MAX_LAYERS,
            "image `{}` has {} layers, and docker mounts at most {MAX_LAYERS}; squash it",
            image.references.first().map_or("", String::as_str),
            image.layers.len()
        );
        let mut chains: Vec<String> = Vec::new();
        for layer in &image.layers {
            let chain = layers::chain_id(chains.last().map(String::as_str), layer);
            if written.insert(chain.clone()) {
                add_layer(root, &docker, layer, &chain, &chains)?;
            }
            chains.push(chain);
        }
        let id = digest(&image.config);
        root.file(
            &format!("{known}/imagedb/content/sha256/{}", hex(&id)),
            0o600,
            image.config.clone(),
        );
        for reference in &image.references {
            let name = familiar(reference);
            let repository = name
                .rsplit_once(':')
                .map_or(name, |(repository, _)| repository);
            let tags = names.entry(repository.to_owned()).or_default();
            tags.insert(name.to_owned(), id.clone());
        }
    }
    root.file(
        &format!("{known}/repositories.json"),
        0o600,
        json!({ "Repositories": names }).to_string().into_bytes(),
    );
    Ok(())
}

/// Adds one layer with those `below` it, from the bottom up.
fn add_layer(
    root: &mut Archive,
    docker: &str,
    layer: &StoredLayer,
    chain: &str,
    below: &[String],
) -> Result<()> {
    let (_, size) = layers::unpack(root, layer, chain)?;
    // docker draws the names of its folders by lot. Ours are the layer's own: a new image over an
    // older state leads to the same layers or to none.
    let folder = format!("{docker}/overlay2/{}", hex(chain));
    root.directory(&folder, 0o710);
    root.symlink(
        &format!("{folder}/diff"),
        &format!("/{}/fs", layers::folder(chain)),
    );
    let link = link(chain)?;
    root.symlink(
        &format!("{docker}/overlay2/l/{link}"),
        &format!("../{}/diff", hex(chain)),
    );
    root.file(&format!("{folder}/link"), 0o644, link.into_bytes());
    if let Some(parent) = below.last() {
        let lower: Result<Vec<String>> = below
            .iter()
            .rev()
            .map(|chain| Ok(format!("l/{}", self::link(chain)?)))
            .collect();
        root.file(
            &format!("{folder}/lower"),
            0o644,
            lower?.join(":").into_bytes(),
        );
        root.directory(&format!("{folder}/work"), 0o700);
        let parent = format!("{docker}/overlay2/{}", hex(parent));
        root.file(&format!("{parent}/committed"), 0o600, Vec::new());
    }

    let entry = format!("{docker}/image/overlay2/layerdb/sha256/{}", hex(chain));
    root.directory(&entry, 0o700);
    let mut files = vec![
        ("cache-id", hex(chain).as_bytes().to_vec()),
        ("diff", layer.diff_id.clone().into_bytes()),
        ("size", size.to_string().into_bytes()),
    ];
    if let Some(parent) = below.last() {
        files.push(("parent", parent.clone().into_bytes()));
    }
    let split = tar_split(&layer.tar)
        .with_context(|| format!("describing layer `{}` for docker", layer.diff_id))?;
    files.extend(split.map(|bytes| ("tar-split.json.gz", bytes)));
    for (name, bytes) in files {
        root.file(&format!("{entry}/{name}"), 0o644, bytes);
    }
    Ok(())
}

fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

/// The short name of a layer, of 26 letters and digits as docker's: base32 of half its chain id.
fn link(chain: &str) -> Result<String> {
    const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let head = hex(chain).get(..32);
    let bits = head.and_then(|head| u128::from_str_radix(head, 16).ok());
    let bits = bits.with_context(|| format!("`{chain}` is no SHA-256 digest"))?;
    // 26 digits of five bits; the last has two zeros behind its three.
    let digit = |place: u32| match 123_u32.checked_sub(5 * place) {
        Some(shift) => DIGITS[(bits >> shift) as usize & 31],
        None => DIGITS[(bits << 2) as usize & 31],
    };
    Ok((0..26).map(|place| digit(place) as char).collect())
}

/// A name as docker writes it for people, and into its store.
fn familiar(reference: &str) -> &str {
    let reference = reference.strip_prefix("docker.io/").unwrap_or(reference);
    match reference.strip_prefix("library/") {
        Some(short) if !short.contains('/') => short,
        _ => reference,
    }
}

/// The part of the image's key that this module decides.
pub(in crate::image) fn recipe() -> String {
    let store = format!("{:?}", ("overlay2", layers::LAYERS, MAX_LAYERS));
    store + &crate::package::docker_recipe()
}

#[cfg(test)]
mod tests;
