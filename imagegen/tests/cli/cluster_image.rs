//! Cluster images of sealos 4: the tree of one, as `sealos create` and `buildah mount` show it.

use std::fs;

use serde_json::Value;

use crate::package;
use crate::package_verdict::{lines, part};
use crate::work::Work;

type Tree = Vec<(String, Vec<u8>)>;

/// Adds an image to the registry of the tree.
fn push(tree: &mut Tree, name: &str, tag: &str) {
    let top = "registry/docker/registry/v2";
    let mut digest = String::new();
    for (path, bytes) in package::layout(name, "amd64") {
        let Some(hex) = path.strip_prefix("blobs/sha256/") else {
            if path == "index.json" {
                let index: Value = serde_json::from_slice(&bytes).expect("JSON");
                let found = index["manifests"][0]["digest"].as_str().expect("a digest");
                digest = found.to_owned();
            }
            continue;
        };
        let file = format!("{top}/blobs/sha256/{}/{hex}/data", &hex[..2]);
        if tree.iter().all(|(known, _)| *known != file) {
            tree.push((file, bytes));
        }
    }
    let link = format!("{top}/repositories/{name}/_manifests/tags/{tag}/current/link");
    tree.push((link, digest.into_bytes()));
}

fn tree() -> Tree {
    let text = |text: &str| text.as_bytes().to_vec();
    let mut tree: Tree = ["kubeadm", "kubectl", "kubelet", "crictl"]
        .map(|name| (format!("bin/{name}"), package::elf(62)))
        .into();
    tree.extend([
        (
            "cri/cri-containerd.tar.gz".to_owned(),
            package::runtime(&["usr/bin/containerd", "usr/bin/runc"]),
        ),
        ("cri/image-cri-shim".to_owned(), package::elf(62)),
        (
            "etc/config.toml.tmpl".to_owned(),
            text("sandbox_image = {{ .x }}"),
        ),
        (
            "images/shim/DefaultImageList".to_owned(),
            text("# names\nghcr.io/labring/lvscare:v5\n"),
        ),
        ("scripts/init.sh".to_owned(), text("#!/bin/bash\n")),
        ("Kubefile".to_owned(), text("FROM scratch\n")),
    ]);
    for name in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
    ] {
        push(&mut tree, name, "v1.25.3");
    }
    push(&mut tree, "etcd", "3.5.4-0");
    push(&mut tree, "pause", "3.8");
    push(&mut tree, "coredns/coredns", "v1.9.3");
    push(&mut tree, "labring/lvscare", "v5");
    tree
}

fn inspect(tree: &Tree) -> (bool, String, String) {
    let work = Work::new();
    for (name, bytes) in tree {
        let path = work.path("image").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("creating it");
        fs::write(path, bytes).expect("writing");
    }
    let output = work.run(&["package", "inspect", "image", "--json"]);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    (
        output.status.success(),
        printed,
        crate::work::stderr(&output),
    )
}

#[test]
fn registry_and_programs_of_a_cluster_image_are_read() {
    let (valid, printed, error) = inspect(&tree());
    assert!(valid, "{printed}{error}");
    let found: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(found["kubernetes"], "1.25.3");
    let images = found["images"].as_array().expect("a list");
    for name in [
        "registry.k8s.io/kube-apiserver:v1.25.3",
        "registry.k8s.io/coredns/coredns:v1.9.3",
        "registry.k8s.io/pause:3.8",
        "ghcr.io/labring/lvscare:v5",
    ] {
        assert!(
            images.iter().any(|image| image["name"] == name),
            "{name}: {printed}"
        );
    }
    let runtime = "containerd/cri-containerd.tar.gz: usr/bin/containerd";
    assert_eq!(part(&found, runtime), ("used", "/usr/bin/containerd"));
    for name in [
        "cri/image-cri-shim",
        "etc/config.toml.tmpl",
        "scripts/init.sh",
        "Kubefile",
    ] {
        let (state, why) = part(&found, name);
        assert_eq!(state, "not-used", "{name}");
        assert_ne!(why, "no part of the layout", "{name}");
    }
    assert!(lines(&found, "warnings").contains("no manifest of a pod network"));
}

#[test]
fn registry_without_a_blob_names_the_tag() {
    let mut tree = tree();
    let link = tree
        .iter()
        .find(|(name, _)| name.contains("/pause/_manifests/"));
    let digest = String::from_utf8(link.expect("a tag").1.clone()).expect("text");
    let hex = digest.trim_start_matches("sha256:").to_owned();
    tree.retain(|(name, _)| !name.contains(&format!("/{hex}/data")));
    let (valid, _, error) = inspect(&tree);
    assert!(!valid);
    // All images of the tree have the same bytes.
    let words = ["the registry's tag `", &format!("leads to `{digest}`")];
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
}
