//! Minimal packages in sealos's layout, valid or with any fault.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

const PROGRAMS: [&str; 4] = ["bin/kubeadm", "bin/kubelet", "bin/kubectl", "bin/crictl"];
const TEXTS: [(&str, &str); 3] = [
    (
        "conf/kubeadm.yaml",
        "kind: ClusterConfiguration\nkubernetesVersion: v1.20.2\n",
    ),
    ("conf/10-kubeadm.conf", "[Service]\n"),
    ("conf/kubelet.service", "[Unit]\n"),
];
const RUNTIME: &str = "containerd/containerd.tar.gz";
const IMAGES: &str = "images/all.tar";

/// Every file of a valid package.
fn whole() -> Vec<(&'static str, Vec<u8>)> {
    let programs = PROGRAMS.map(|name| (name, b"#!/bin/sh\n".to_vec()));
    let texts = TEXTS.map(|(name, text)| (name, text.as_bytes().to_vec()));
    let mut files: Vec<_> = programs.into_iter().chain(texts).collect();
    files.push((RUNTIME, runtime(&["bin/containerd", "bin/runc"])));
    files.push((IMAGES, images()));
    files
}

/// Calls `each` for every file of a valid package.
pub(crate) fn files(mut each: impl FnMut(&str, &[u8])) {
    for (name, bytes) in whole() {
        each(name, &bytes);
    }
}

/// An archive built entry by entry.
pub(crate) struct Raw(Builder<Vec<u8>>);

impl Raw {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(crate) fn whole() -> Self {
        let mut raw = Self::new();
        for (name, bytes) in whole() {
            raw.add(name, EntryType::Regular, "", &bytes);
        }
        raw
    }

    /// Writes `name` unchecked: the crate does not write the names that readers must refuse.
    pub(crate) fn add(&mut self, name: &str, kind: EntryType, link: &str, bytes: &[u8]) {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o755);
        let bytes = if kind == EntryType::Regular {
            bytes
        } else {
            &[]
        };
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        self.0.append(&header, bytes).expect("in memory");
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("in memory")
    }
}

/// A valid package as a folder, with `changed` files instead of its own.
pub(crate) fn folder(at: &Path, changed: &[(&str, &[u8])]) {
    let own = whole();
    let own = own.iter().map(|(name, bytes)| (*name, bytes.as_slice()));
    for (name, bytes) in own.chain(changed.iter().copied()) {
        let path = at.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("creating it");
        fs::write(&path, bytes).expect("writing to it");
        let hook = name.starts_with("hooks/") && !name.contains('.');
        let mode = if name.starts_with("bin/") || hook {
            0o755
        } else {
            0o644
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changing its mode");
    }
}

/// An archive with programs for amd64.
pub(crate) fn runtime(names: &[&str]) -> Vec<u8> {
    let mut raw = Raw::new();
    for name in names {
        raw.add(name, EntryType::Regular, "", &elf(62));
    }
    raw.bytes()
}

/// The header of an ELF program for the machine `e_machine`.
pub(crate) fn elf(machine: u8) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    elf[18] = machine;
    elf
}

/// `docker save` of the control plane's images, all with the same empty contents.
pub(crate) fn images() -> Vec<u8> {
    let names = [
        "kube-apiserver:v1.20.2",
        "kube-controller-manager:v1.20.2",
        "kube-scheduler:v1.20.2",
        "etcd:3.5.16-0",
        "pause:3.2",
    ]
    .map(|name| format!("k8s.gcr.io/{name}"));
    saved(&names.each_ref().map(String::as_str), "amd64")
}

/// `docker save` of one image with several names.
pub(crate) fn saved(names: &[&str], architecture: &str) -> Vec<u8> {
    let layer = Raw::new().bytes();
    let sha = |bytes: &[u8]| {
        let digest = Sha256::digest(bytes);
        digest
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    };
    let config = serde_json::json!({"architecture": architecture, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha(&layer))]}})
    .to_string();
    let config_name = format!("{}.json", sha(config.as_bytes()));
    let manifest =
        serde_json::json!([{"Config": config_name, "RepoTags": names, "Layers": ["layer.tar"]}]);
    let mut raw = Raw::new();
    raw.add(&config_name, EntryType::Regular, "", config.as_bytes());
    raw.add("layer.tar", EntryType::Regular, "", &layer);
    raw.add(
        "manifest.json",
        EntryType::Regular,
        "",
        manifest.to_string().as_bytes(),
    );
    raw.bytes()
}

/// The files of an OCI layout with one image.
pub(crate) fn layout(name: &str, architecture: &str) -> Vec<(String, Vec<u8>)> {
    let layer = Raw::new().bytes();
    let blob = |bytes: &[u8]| {
        let digest = Sha256::digest(bytes);
        digest
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    };
    let config = serde_json::json!({"architecture": architecture, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", blob(&layer))]}});
    let config = config.to_string().into_bytes();
    let descriptor = |bytes: &[u8]| {
        serde_json::json!({"mediaType": "x", "digest": format!("sha256:{}", blob(bytes)),
            "size": bytes.len()})
    };
    let manifest = serde_json::json!({"schemaVersion": 2, "config": descriptor(&config),
        "layers": [descriptor(&layer)]});
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor(&manifest);
    entry["annotations"] = serde_json::json!({"io.containerd.image.name": name});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
    let mut files = vec![
        (
            "oci-layout".to_owned(),
            b"{\"imageLayoutVersion\": \"1.0.0\"}".to_vec(),
        ),
        ("index.json".to_owned(), index.to_string().into_bytes()),
    ];
    for bytes in [layer, config, manifest] {
        files.push((format!("blobs/sha256/{}", blob(&bytes)), bytes));
    }
    files
}
