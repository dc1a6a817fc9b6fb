//! `imagegen package inspect`: every image that something names is in the package.

use serde_json::Value;

use crate::package;
use crate::package_verdict::{accepted, gzip, lines, part, refused, xz};

#[test]
fn data_after_an_image_archive_is_refused() {
    let (first, second) = (
        package::saved(&["example.org/a:1"], "amd64"),
        package::saved(&["example.org/b:1"], "amd64"),
    );
    let plain = [first.clone(), second.clone()].concat();
    let packed = [gzip(&first), gzip(&second)].concat();
    for bytes in [plain, packed] {
        refused(
            &[("images/two.tar", &bytes)],
            &["`images/two.tar` of the package: data follows the end of the archive"],
        );
    }
}

#[test]
fn images_are_matched_by_their_full_names() {
    let named_by = |found: &Value, name: &str| {
        let images = found["images"].as_array().expect("a list").iter();
        let image = images.clone().find(|image| image["name"] == name);
        image.unwrap_or_else(|| panic!("{found:#}"))["named_by"].clone()
    };
    let coredns = package::saved(&["coredns/coredns:1.7.0"], "amd64");
    let found = accepted(&[("images/coredns.tar", &coredns)]);
    assert!(lines(&found, "warnings").contains("dns.imageRepository"));
    let etcd = package::saved(&["example/etcd:9.9"], "amd64");
    let found = accepted(&[("images/aetcd.tar", &etcd)]);
    assert_eq!(
        named_by(&found, "docker.io/example/etcd:9.9"),
        serde_json::json!([])
    );
    assert_eq!(
        named_by(&found, "k8s.gcr.io/etcd:3.5.16-0"),
        serde_json::json!(["kubeadm"])
    );
    let of = |scheduler: &str, pause: &str| {
        let names = [
            "kube-apiserver:v1.20.2",
            "kube-controller-manager:v1.20.2",
            "etcd:1",
        ];
        let names = names.map(|name| format!("k8s.gcr.io/{name}"));
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.extend([scheduler, pause]);
        package::saved(&names, "amd64")
    };
    let asked = "kubeadm asks for `k8s.gcr.io/kube-scheduler:v1.20.2`, which is not in the package";
    for scheduler in [
        "k8s.gcr.io/kube-scheduler:v1.19.0",
        "example.org/kube-scheduler:v1.20.2",
    ] {
        let bytes = of(scheduler, "k8s.gcr.io/pause:3.2");
        refused(&[("images/all.tar", &bytes)], &[asked]);
    }
    let bytes = of("k8s.gcr.io/kube-scheduler:v1.20.2", "example.org/pause:3.2");
    refused(
        &[("images/all.tar", &bytes)],
        &["`images/` has `example.org/pause:3.2`"],
    );
}

#[test]
fn every_file_in_images_is_read_or_refused() {
    let image = |name: &str| package::saved(&[name], "amd64");
    let found = accepted(&[
        ("images/x.tar.xz", &xz(&image("example.org/x:1"))),
        ("images/y.img", &image("example.org/y:1")),
        ("images/sub/z", &gzip(&image("example.org/z:1"))),
        ("images/README.md", b""),
    ]);
    let names: Vec<_> = found["images"].as_array().expect("a list").iter().collect();
    for name in ["example.org/x:1", "example.org/y:1", "example.org/z:1"] {
        assert!(names.iter().any(|image| image["name"] == name), "{name}");
    }
    assert_eq!(part(&found, "images/README.md").0, "not-used");
    refused(
        &[
            ("images/a.img", b"\x01\x02"),
            ("images/b.tar", b"BZh91AY"),
            ("images/c.tar", b""),
        ],
        &["`images/a.img`", "`images/b.tar`", "`images/c.tar`"],
    );
}

#[test]
fn image_that_a_manifest_names_must_be_there() {
    let manifest = |policy: &str| {
        format!(
            "apiVersion: apps/v1\nkind: DaemonSet\n\
             metadata: {{name: cni, namespace: kube-system}}\n\
             spec:\n  template:\n    spec:\n\
             \x20     initContainers: [{{name: i, image: \"example/cni:v3\"}}]\n\
             \x20     containers: [{{name: node, image: \"example/node:v3\"{policy}}}]\n"
        )
    };
    let (cni, both) = (
        package::saved(&["docker.io/example/cni:v3"], "amd64"),
        package::saved(&["example/cni:v3", "example/node:v3"], "amd64"),
    );
    let place = "conf/net/net.yaml:8:40: document 1, DaemonSet kube-system/cni: container `node`";
    let missing =
        format!("{place} asks for `docker.io/example/node:v3`, which is not in the package");
    let plain = manifest("");
    refused(
        &[
            ("conf/net/net.yaml", plain.as_bytes()),
            ("images/cni.tar", &cni),
        ],
        &[&missing],
    );
    let always = manifest(", imagePullPolicy: Always");
    refused(
        &[
            ("conf/net/net.yaml", always.as_bytes()),
            ("images/cni.tar", &both),
        ],
        &[&format!("{place} asks a registry")],
    );
    accepted(&[
        ("conf/net/net.yaml", plain.as_bytes()),
        ("images/cni.tar", &both),
    ]);
}

#[test]
fn sandbox_image_must_be_in_the_package() {
    for (text, words) in [
        (
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n\
             \x20 sandbox_image = \"registry.k8s.io/pause:3.6\"\n",
            "conf/containerd-config.toml:3:20: containerd asks for `registry.k8s.io/pause:3.6`",
        ),
        (
            "version = 3\n[plugins.'io.containerd.cri.v1.images'.pinned_images]\n\
             sandbox = \"a.b/pause:1\"\n",
            "conf/containerd-config.toml:3:12: containerd asks for `a.b/pause:1`",
        ),
        (
            "version = 2\n",
            "conf/containerd-config.toml: it names no sandbox image",
        ),
        ("version = \n", "conf/containerd-config.toml:1:1"),
    ] {
        refused(
            &[("conf/containerd-config.toml", text.as_bytes())],
            &[words],
        );
    }
}

/// An unpacked archive, as `skopeo copy … oci:` and `buildah push … dir` leave it.
#[test]
fn folders_of_images_are_read() {
    let unpack = |at: &str, archive: &[u8]| -> Vec<(String, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().expect("an archive");
        let mut files = Vec::new();
        for entry in entries {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a name").display().to_string();
            let mut bytes = Vec::new();
            std::io::copy(&mut entry, &mut bytes).expect("in memory");
            files.push((format!("{at}/{name}"), bytes));
        }
        files
    };
    let docker = unpack(
        "images/docker",
        &package::saved(&["example.org/d:1"], "amd64"),
    );
    let oci = package::layout("example.org/o:1", "amd64");
    let oci: Vec<_> = oci
        .into_iter()
        .map(|(name, bytes)| (format!("images/sub/oci/{name}"), bytes))
        .collect();
    let files: Vec<(&str, &[u8])> = docker
        .iter()
        .chain(&oci)
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    let found = accepted(&files);
    let names: Vec<_> = found["images"].as_array().expect("a list").iter().collect();
    for name in ["example.org/d:1", "example.org/o:1"] {
        assert!(names.iter().any(|image| image["name"] == name), "{name}");
    }
    for folder in ["images/docker/", "images/sub/oci/"] {
        assert_eq!(part(&found, folder).0, "used", "{folder}");
    }
    // A layer that is not there.
    let (missing, rest): (Vec<_>, Vec<_>) = files
        .iter()
        .partition(|(name, _)| name.ends_with("layer.tar"));
    assert_eq!(missing.len(), 1);
    refused(
        &rest,
        &["the folder `images/docker` of the package, an unpacked image archive: layer"],
    );
    let arm = package::layout("example.org/o:1", "arm64");
    let arm: Vec<_> = arm
        .iter()
        .map(|(name, bytes)| (format!("images/{name}"), bytes))
        .collect();
    let files: Vec<(&str, &[u8])> = arm
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    let printed = lines(&crate::package_verdict::verdict(&files), "errors");
    assert!(
        printed.contains("image `example.org/o:1` is for arm64"),
        "{printed}"
    );
}
