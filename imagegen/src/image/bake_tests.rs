//! Packages of other makers, baked as far as the root's contents: small ones after the recipes of
//! `fanux/cloud-kernel` and `labring/cloud-kernel`, and one that a person puts together from
//! upstream's releases. No machine, no Debian tree.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use default_package::{Supplies, supplied_plugins};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::archive::{Archive, Content};
use super::containerd;
use super::root_files::STATE;
use super::{build, facts, layers, programs, root};
use crate::digest::hex;
use crate::package::Package;
use crate::plan::ImagePlan;

type File = (String, Vec<u8>);

fn tarball(files: &[File]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        // As of a person who packs without root.
        header.set_uid(1000);
        header.set_gid(1000);
        header.set_mtime(0);
        header.set_mode(if name.contains("bin/") { 0o755 } else { 0o644 });
        tar.append_data(&mut header, name, bytes.as_slice())?;
    }
    Ok(tar.into_inner()?)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes)?;
    Ok(packer.finish()?)
}

fn files(texts: &[(&str, &[u8])]) -> Vec<File> {
    let own = |(name, bytes): &(&str, &[u8])| ((*name).to_owned(), bytes.to_vec());
    texts.iter().map(own).collect()
}

/// The header of a program, with a text that tells it from others.
fn elf(text: &str) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    elf[18] = 62;
    elf.extend(text.as_bytes());
    elf
}

fn sha(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Configuration and stored layers of an image whose second layer removes a file of the first.
fn image(of: &str) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let layers = [
        tarball(&files(&[("etc/gone", b"x"), ("etc/os", of.as_bytes())]))?,
        tarball(&files(&[("etc/.wh.gone", b"")]))?,
    ];
    let ids: Vec<String> = layers
        .iter()
        .map(|l| format!("sha256:{}", sha(l)))
        .collect();
    let config = json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": ids}});
    Ok((config.to_string().into_bytes(), layers.to_vec()))
}

/// `docker save` before docker 25.
fn docker(names: &[&str]) -> Result<Vec<File>> {
    let mut manifest = Vec::new();
    let mut found = Vec::new();
    for name in names {
        let (config, layers) = image(name)?;
        let mut entries = Vec::new();
        for layer in &layers {
            let entry = format!("{}/layer.tar", sha(layer));
            if found.iter().all(|(known, _)| *known != entry) {
                found.push((entry.clone(), layer.clone()));
            }
            entries.push(entry);
        }
        let config_name = format!("{}.json", sha(&config));
        manifest.push(json!({"Config": config_name, "RepoTags": [name], "Layers": entries}));
        found.push((config_name, config));
    }
    let manifest = Value::Array(manifest).to_string().into_bytes();
    found.push(("manifest.json".to_owned(), manifest));
    Ok(found)
}

/// `ctr images export`: an index of several platforms of which one is there, layers by gzip.
fn oci(names: &[&str]) -> Result<Vec<File>> {
    let mut top = Vec::new();
    let mut found = files(&[("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#)]);
    let mut blob = |bytes: Vec<u8>, kind: &str| {
        let digest = sha(&bytes);
        let size = bytes.len();
        found.push((format!("blobs/sha256/{digest}"), bytes));
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{digest}"), "size": size})
    };
    for name in names {
        let (config, layers) = image(name)?;
        let config = blob(config, "config.v1+json");
        let mut stored = Vec::new();
        for layer in layers {
            stored.push(blob(gzip(&layer)?, "layer.v1.tar+gzip"));
        }
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": stored});
        let mut here = blob(manifest.to_string().into_bytes(), "manifest.v1+json");
        here["platform"] = json!({"architecture": "amd64", "os": "linux"});
        let mut absent = here.clone();
        absent["digest"] = format!("sha256:{}", sha(b"absent")).into();
        absent["platform"]["architecture"] = "arm64".into();
        let index = json!({"schemaVersion": 2, "manifests": [absent, here]});
        let mut entry = blob(index.to_string().into_bytes(), "index.v1+json");
        entry["annotations"] = json!({"io.containerd.image.name": name});
        top.push(entry);
    }
    let index = json!({"schemaVersion": 2, "manifests": top}).to_string();
    found.push(("index.json".to_owned(), index.into_bytes()));
    // Some blobs are those of two images.
    found.sort();
    found.dedup();
    Ok(found)
}

const CONTROL_PLANE: [&str; 7] = [
    "k8s.gcr.io/kube-apiserver:v1.20.0",
    "k8s.gcr.io/kube-controller-manager:v1.20.0",
    "k8s.gcr.io/kube-scheduler:v1.20.0",
    "k8s.gcr.io/kube-proxy:v1.20.0",
    "k8s.gcr.io/coredns:1.7.0",
    "k8s.gcr.io/etcd:3.4.13-0",
    "k8s.gcr.io/pause:3.2",
];

/// The root of an image of the package at `path`.
fn bake(dir: &Path, path: &Path) -> Result<Archive> {
    let package = Package::open(path)?;
    let verdict = package.verdict();
    let folder = |name: &str| -> Result<std::path::PathBuf> {
        let made = dir.join(name);
        fs::create_dir_all(&made)?;
        Ok(made)
    };
    let (own, plugins, work) = (folder("own")?, folder("supplies")?, folder("work")?);
    for name in programs::NAMES {
        fs::write(own.join(name), "static")?;
    }
    for name in supplied_plugins().into_iter().chain(["crictl"]) {
        fs::write(plugins.join(name), format!("our {name}"))?;
    }
    let base = dir.join("base.tar");
    fs::write(
        &base,
        tarball(&files(&[("usr/lib/os-release", b"ID=debian\n")]))?,
    )?;
    let unpacked = work.join("package");
    package.extract_to(&unpacked)?;
    let images = build::images(&package, &unpacked)?;
    let facts = facts::image_file(&package, &verdict, &images)?;
    let images = layers::spool(&images, &work)?;
    let (mut made, _) = root::compose(&root::Inputs {
        base: &base,
        modules: &folder("modules")?,
        release: "6.12",
        package: &unpacked,
        programs: &own,
        facts: &facts,
        verdict: &verdict,
        supplies: &Supplies::of(&plugins),
        plan: &ImagePlan::default(),
        work: &work,
    })?;
    containerd::store::write(&mut made, STATE, &images)?;
    // What is read later must not need the folder of the package's archives.
    made.write(std::io::sink())?;
    Ok(made)
}

/// Writes the package as an archive whose files are below `top`.
fn package(
    dir: &Path,
    top: &str,
    mut own: Vec<File>,
    pack: fn(&[u8]) -> Result<Vec<u8>>,
) -> Result<std::path::PathBuf> {
    own.iter_mut().for_each(|(name, _)| name.insert_str(0, top));
    let path = dir.join("package");
    fs::write(&path, pack(&tarball(&own)?)?)?;
    Ok(path)
}

fn text(root: &Archive, path: &str) -> Result<String> {
    Ok(String::from_utf8(root.read(path)?)?)
}

fn is_program(root: &Archive, path: &str) -> bool {
    let entry = root.get(path);
    entry.is_some_and(|entry| {
        (entry.mode, entry.uid) == (0o755, 0) && matches!(entry.content, Content::File(_))
    })
}

/// Every image is named in containerd's database and unpacked, and what a layer removes is gone.
fn holds_images(root: &Archive, names: &[&str]) -> Result<()> {
    let database = format!("{STATE}/lib/containerd/io.containerd.metadata.v1.bolt/meta.db");
    let bytes = root.read(&database)?;
    for name in names {
        let found = bytes
            .windows(name.len())
            .any(|part| part == name.as_bytes());
        anyhow::ensure!(found, "`{name}` is not in containerd's store");
    }
    let (files, _) = root.usage(layers::LAYERS);
    anyhow::ensure!(files > 0, "no layer is unpacked");
    Ok(())
}

/// `kube1.20.0.tar.gz` with containerd: everything in `kube/`, containerd's unit in its archive.
fn cloud_kernel() -> Result<Vec<File>> {
    let unit = b"[Service]\nExecStart=/usr/local/bin/containerd\n";
    let runtime = [
        "./usr/local/bin/containerd",
        "./usr/local/bin/containerd-shim-runc-v2",
        "./usr/local/bin/ctr",
        "./usr/local/bin/crictl",
        "./usr/local/sbin/runc",
        "./opt/cni/bin/bridge",
        "./opt/cni/bin/loopback",
    ];
    let mut entries: Vec<File> = runtime
        .iter()
        .map(|name| ((*name).to_owned(), elf(name)))
        .collect();
    entries.extend(files(&[
        ("./etc/systemd/system/containerd.service", unit),
        (
            "./etc/crictl.yaml",
            b"runtime-endpoint: unix:///run/containerd/containerd.sock\n",
        ),
        ("./etc/cni/net.d/10-containerd-net.conflist", b"{}"),
        ("./opt/containerd/cluster/version", b"1.3.9"),
    ]));
    let calico = b"kind: ConfigMap\napiVersion: v1\nmetadata: {name: calico-config, namespace: kube-system}\n";
    let kubeadm =
        b"apiVersion: kubeadm.k8s.io/v1beta2\nkind: ClusterConfiguration\nnetworking:\n  \
        podSubnet: 100.64.0.0/10\nkubernetesVersion: v1.20.0\n---\napiVersion: \
        kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: \"ipvs\"\n---\n\
        apiVersion: kubeadm.k8s.io/v1beta2\nkind: InitConfiguration\nnodeRegistration:\n  \
        criSocket: /run/containerd/containerd.sock\n";
    let kubelet =
        b"[Service]\nExecStart=/usr/bin/kubelet\nExecStartPre=/usr/bin/kubelet-pre-start.sh\n";
    let mut own = files(&[
        ("README.md", b""),
        ("bin/crictl", &elf("own crictl")),
        ("bin/conntrack", &elf("of CentOS")),
        ("bin/kubeadm", &elf("kubeadm v1.20.0")),
        ("bin/kubectl", &elf("kubectl v1.20.0")),
        ("bin/kubelet", &elf("kubelet v1.20.0")),
        ("bin/kubelet-pre-start.sh", b"#!/bin/bash\nexit 0\n"),
        ("conf/10-kubeadm.conf", b"[Service]\n"),
        ("conf/calico.yaml", calico),
        ("conf/net/calico.yaml", calico),
        ("conf/kubeadm.yaml", kubeadm),
        ("conf/kubelet.service", kubelet),
        ("containerd/README.md", b""),
        ("images/README.md", b""),
        ("lib64/libseccomp.so.2.3.1", &elf("libseccomp")),
        ("shell/init.sh", b"#!/bin/bash\n"),
        ("shell/master.sh", b"#!/bin/bash\n"),
        ("shell/containerd.sh", b"#!/bin/bash\n"),
    ]);
    own.push((
        "containerd/cri-containerd-cni-linux-amd64.tar.gz".to_owned(),
        gzip(&tarball(&entries)?)?,
    ));
    own.push((
        "images/images.tar".to_owned(),
        tarball(&oci(&CONTROL_PLANE)?)?,
    ));
    Ok(own)
}

#[test]
fn package_of_cloud_kernel_is_baked() -> Result<()> {
    let dir = TempDir::new()?;
    let path = package(dir.path(), "kube/", cloud_kernel()?, gzip)?;
    let root = bake(dir.path(), &path)?;
    for (path, program) in [
        ("usr/bin/containerd", "./usr/local/bin/containerd"),
        ("usr/bin/runc", "./usr/local/sbin/runc"),
        ("opt/cni/bin/bridge", "./opt/cni/bin/bridge"),
        ("usr/bin/kubelet", "kubelet v1.20.0"),
        // `bin/` is the package's choice among two.
        ("usr/bin/crictl", "own crictl"),
    ] {
        assert!(is_program(&root, path), "{path}");
        assert!(root.read(path)?.ends_with(program.as_bytes()), "{path}");
    }
    // Plugins that the package lacks are ours.
    assert_eq!(text(&root, "opt/cni/bin/portmap")?, "our portmap");
    let unit = text(&root, "usr/lib/systemd/system/containerd.service")?;
    assert!(unit.contains("ExecStart=/usr/bin/containerd\n"), "{unit}");
    let config = text(&root, "etc/containerd/config.toml")?;
    for line in [
        "sandbox_image = \"k8s.gcr.io/pause:3.2\"",
        "SystemdCgroup = true",
    ] {
        assert!(config.contains(line), "{config}");
    }
    for path in [
        "usr/bin/conntrack",
        "etc/cni/net.d/10-containerd-net.conflist",
        "opt/containerd",
        "usr/share/firstlight/conf/net/calico.yaml",
    ] {
        assert!(root.get(path).is_none(), "{path}");
    }
    let manifests = text(&root, "usr/share/firstlight/conf/net/package.yaml")?;
    assert_eq!(manifests.matches("calico-config").count(), 1, "{manifests}");
    holds_images(&root, &CONTROL_PLANE)
}

/// Upstream's releases, each as it is published: no unit, no crictl, no CNI plugin.
#[test]
fn package_of_upstreams_releases_is_completed() -> Result<()> {
    let dir = TempDir::new()?;
    let runtime = ["bin/containerd", "bin/containerd-shim-runc-v2", "bin/ctr"];
    let runtime: Vec<File> = runtime
        .iter()
        .map(|name| ((*name).to_owned(), elf(name)))
        .collect();
    let mut own = files(&[
        ("bin/kubeadm", &elf("kubeadm")),
        ("bin/kubectl", &elf("kubectl")),
        ("bin/kubelet", &elf("kubelet")),
        (
            "conf/kubeadm.yaml",
            b"kind: ClusterConfiguration\nkubernetesVersion: v1.20.0\n",
        ),
        ("containerd/runc.amd64", &elf("runc")),
    ]);
    own.push((
        "containerd/containerd-1.7.tar.gz".to_owned(),
        gzip(&tarball(&runtime)?)?,
    ));
    // One image archive as it is, one compressed, and two that are folders.
    own.push((
        "images/a.tar".to_owned(),
        tarball(&docker(&CONTROL_PLANE[..2])?)?,
    ));
    own.push((
        "images/b.tar.gz".to_owned(),
        gzip(&tarball(&oci(&CONTROL_PLANE[2..4])?)?)?,
    ));
    for (at, entries) in [
        ("images/c", docker(&CONTROL_PLANE[4..6])?),
        ("images/more/d", oci(&CONTROL_PLANE[6..])?),
    ] {
        let entries = entries.into_iter();
        own.extend(entries.map(|(name, bytes)| (format!("{at}/{name}"), bytes)));
    }
    let zstd = |bytes: &[u8]| Ok(zstd::encode_all(bytes, 1)?);
    let path = package(dir.path(), "my packages/", own, zstd)?;
    let root = bake(dir.path(), &path)?;
    for name in supplied_plugins() {
        assert!(is_program(&root, &format!("opt/cni/bin/{name}")), "{name}");
    }
    assert_eq!(text(&root, "usr/bin/crictl")?, "our crictl");
    assert!(is_program(&root, "usr/bin/runc"));
    for unit in [
        "containerd.service",
        "kubelet.service",
        "kubelet.service.d/10-kubeadm.conf",
    ] {
        let path = format!("usr/lib/systemd/system/{unit}");
        assert!(text(&root, &path)?.contains("ExecStart="), "{unit}");
    }
    assert!(text(&root, "etc/crictl.yaml")?.contains("containerd.sock"));
    let facts: Value = serde_json::from_slice(&root.read("usr/share/firstlight/image.json")?)?;
    let images = facts["images"].as_array().context("a list")?;
    assert_eq!(images.len(), CONTROL_PLANE.len(), "{images:?}");
    holds_images(&root, &CONTROL_PLANE)
}
