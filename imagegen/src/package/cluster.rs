//! Cluster images of sealos 4 and 5, read as if they were packages: the files of one tree get the
//! names of the layout, and the blobs of its registry those of an OCI layout.
//!
//! Facts of the registry's folders: `registry/storage/paths.go` of distribution.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use semver::Version;
use serde_json::{Value, json};

use super::listing::Listing;
use super::oci::describe::full_name;
use super::probe::Contents;

const REGISTRY: &str = "registry/docker/registry/v2/";
/// The folder of the layout that the registry becomes.
const LAYOUT: &str = "images/registry";

/// What becomes of a cluster image.
#[derive(Debug, Default)]
pub(super) struct Translation {
    /// Names in the layout by names in the tree; all others stay.
    pub(super) names: BTreeMap<String, String>,
    /// Files that the tree does not have, with their contents.
    pub(super) made: BTreeMap<String, Vec<u8>>,
}

/// Whether a tree is a cluster image of sealos.
pub(super) fn is_tree(listing: &Listing) -> bool {
    let has = |start: &str| listing.iter().any(|(name, _)| name.starts_with(start));
    has(REGISTRY) && has("bin/kubeadm") && !has("conf/kubeadm.yaml")
}

/// Translates a tree; `read` returns the contents of a small file.
pub(super) fn translate(
    listing: &Listing,
    contents: &BTreeMap<String, Contents>,
    read: &dyn Fn(&str) -> Result<Vec<u8>>,
) -> Result<Translation> {
    let mut made = Translation::default();
    let mut tags = Vec::new();
    for (name, _) in listing.iter() {
        if let Some(blob) = blob(name) {
            made.names
                .insert(name.to_owned(), format!("{LAYOUT}/blobs/sha256/{blob}"));
        } else if let Some(rest) = name.strip_prefix("registry/") {
            made.names
                .insert(name.to_owned(), format!("{LAYOUT}/{rest}"));
            tags.extend(tag(name));
        } else if let Some(rest) = name.strip_prefix("images/") {
            // Lists of names, and no images.
            made.names.insert(name.to_owned(), format!("lists/{rest}"));
        } else if let Some(to) = runtime(name, contents.get(name)) {
            made.names.insert(name.to_owned(), to);
        } else if let Some(rest) = name.strip_prefix("manifests/")
            && (rest.ends_with(".yaml") || rest.ends_with(".yml"))
            && !rest.contains('/')
        {
            made.names
                .insert(name.to_owned(), format!("conf/net/{rest}"));
        }
    }
    let known = known_names(listing, read)?;
    let release = tags
        .iter()
        .find(|tag| tag.repository == "kube-apiserver")
        .context("its registry has no image of kube-apiserver")?;
    let version = release.tag.trim_start_matches('v').to_owned();
    let release: Version = version
        .parse()
        .with_context(|| format!("the tag `{}` of kube-apiserver is no release", release.tag))?;
    let mut manifests = Vec::new();
    for tag in &tags {
        let digest = String::from_utf8(read(&tag.link)?).unwrap_or_default();
        let digest = digest.trim();
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        let reference = format!("{}:{}", tag.repository, tag.tag);
        ensure!(
            hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()),
            "the registry's tag `{reference}` leads to `{digest}`, which is no digest"
        );
        let file = format!("{REGISTRY}blobs/sha256/{}/{hex}/data", &hex[..2]);
        if listing.get(&file).is_none() {
            bail!("the registry's tag `{reference}` leads to `{digest}`, which it does not have");
        }
        let bytes = read(&file)?;
        let manifest: Value = serde_json::from_slice(&bytes)
            .with_context(|| format!("reading the manifest of the registry's `{reference}`"))?;
        let kind = match manifest["manifests"].is_array() {
            true => "application/vnd.oci.image.index.v1+json",
            false => "application/vnd.oci.image.manifest.v1+json",
        };
        for name in names(&reference, &known, &release) {
            manifests.push(json!({
                "mediaType": kind, "digest": digest, "size": bytes.len(),
                "annotations": { "io.containerd.image.name": name },
            }));
        }
    }
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    let text = |value: Value| value.to_string().into_bytes();
    made.made
        .insert(format!("{LAYOUT}/index.json"), text(index));
    made.made.insert(
        format!("{LAYOUT}/oci-layout"),
        text(json!({ "imageLayoutVersion": "1.0.0" })),
    );
    let base = format!("kind: ClusterConfiguration\nkubernetesVersion: v{release}\n");
    made.made
        .insert("conf/kubeadm.yaml".to_owned(), base.into_bytes());
    Ok(made)
}

/// The digest of a blob's file.
fn blob(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(REGISTRY)?.strip_prefix("blobs/sha256/")?;
    let (_, rest) = rest.split_once('/')?;
    rest.strip_suffix("/data")
}

struct Tag {
    repository: String,
    tag: String,
    link: String,
}

fn tag(name: &str) -> Option<Tag> {
    let rest = name.strip_prefix(REGISTRY)?.strip_prefix("repositories/")?;
    let (repository, rest) = rest.split_once("/_manifests/tags/")?;
    let tag = rest.strip_suffix("/current/link")?;
    Some(Tag {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        link: name.to_owned(),
    })
}

/// Where a file of `cri/` goes: the runtime's archives and programs.
fn runtime(name: &str, contents: Option<&Contents>) -> Option<String> {
    let base = name.strip_prefix("cri/")?;
    let programs = ["runc", "crun", "crictl", "nerdctl", "ctr", "containerd"];
    match contents? {
        Contents::Program(_) if programs.contains(&base) => Some(format!("containerd/{base}")),
        Contents::Archive(inside) => {
            let has = |program: &str| {
                let mut entries = inside.entries.iter();
                entries.any(|e| e.elf.is_some() && e.name.rsplit('/').next() == Some(program))
            };
            if has("dockerd") || has("cri-dockerd") {
                Some(format!("docker/{base}"))
            } else {
                has("containerd").then(|| format!("containerd/{base}"))
            }
        }
        _ => None,
    }
}

/// Full names of images that the tree's lists and manifests have.
fn known_names(
    listing: &Listing,
    read: &dyn Fn(&str) -> Result<Vec<u8>>,
) -> Result<BTreeSet<String>> {
    let mut known = BTreeSet::new();
    for (name, _) in listing.iter() {
        let is_list = name.starts_with("images/shim/");
        if !is_list && !name.starts_with("manifests/") {
            continue;
        }
        let text = String::from_utf8(read(name)?).unwrap_or_default();
        for line in text.lines().map(str::trim) {
            let image = if is_list {
                Some(line)
            } else {
                let rest = line.trim_start_matches("- ").strip_prefix("image:");
                rest.map(|rest| rest.trim().trim_matches(['"', '\'']))
            };
            let image = image.filter(|i| !i.is_empty() && !i.starts_with('#') && !i.contains("{{"));
            known.extend(image.map(full_name));
        }
    }
    Ok(known)
}

/// The registry keeps a name without its host. The lists have the whole name; kubeadm's images are
/// of its own registry, others of Docker's.
fn names(reference: &str, known: &BTreeSet<String>, release: &Version) -> Vec<String> {
    let path = |name: &String| name.split_once('/').map(|(_, path)| path.to_owned());
    let listed = known
        .iter()
        .filter(|name| path(name).as_deref() == Some(reference));
    let listed: Vec<String> = listed.cloned().collect();
    if !listed.is_empty() {
        return listed;
    }
    let (repository, _) = reference.rsplit_once(':').unwrap_or((reference, ""));
    let of_kubeadm = [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
        "etcd",
        "pause",
        "coredns",
        "coredns/coredns",
    ];
    if of_kubeadm.contains(&repository) {
        return vec![format!("{}/{reference}", registry(release))];
    }
    vec![full_name(&format!("docker.io/{reference}"))]
}

/// Where kubeadm of a release looks for its images (kubeadm #2671).
fn registry(release: &Version) -> &'static str {
    let moved = match release.minor {
        ..22 => false,
        22 => release.patch >= 17,
        23 => release.patch >= 15,
        24 => release.patch >= 9,
        25.. => true,
    };
    if moved {
        "registry.k8s.io"
    } else {
        "k8s.gcr.io"
    }
}

/// Why a part of a cluster image is of no use on our nodes.
pub(super) fn reason(name: &str) -> Option<&'static str> {
    let (folder, rest) = name.split_once('/').unwrap_or(("", name));
    Some(match folder {
        "scripts" => "sealos 4 prepares a running host by it, which the image does itself",
        "etc" => "the image has its own units and settings",
        "lists" => "names of the registry's images",
        "opt" => "sealos's own tools",
        "statics" => "audit is a setting of `kubernetes.apiserver_args` in the topology",
        "charts" => "nodes have no Helm; put its rendered manifests into `manifests/`",
        "manifests" => "master0 applies `manifests/*.yaml` and `.yml` only",
        "cri" if rest.contains("seccomp") || rest.contains("lib") => {
            "the image has the libraries of Debian 13, libseccomp among them"
        }
        "cri" => "nodes have every image in their store, and need no registry and no shim",
        "" if rest == "Kubefile" => "the recipe of the cluster image",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_their_hosts_back() {
        let known: BTreeSet<String> = ["ghcr.io/labring/lvscare:v5", "docker.io/library/nginx:1"]
            .map(str::to_owned)
            .into();
        for (reference, minor, expected) in [
            ("labring/lvscare:v5", 25, "ghcr.io/labring/lvscare:v5"),
            ("library/nginx:1", 25, "docker.io/library/nginx:1"),
            (
                "kube-proxy:v1.25.0",
                25,
                "registry.k8s.io/kube-proxy:v1.25.0",
            ),
            (
                "coredns/coredns:v1.8.6",
                23,
                "k8s.gcr.io/coredns/coredns:v1.8.6",
            ),
            ("calico/node:v3.22.1", 23, "docker.io/calico/node:v3.22.1"),
        ] {
            let found = names(reference, &known, &Version::new(1, minor, 0));
            assert_eq!(found, [expected]);
        }
    }
}
