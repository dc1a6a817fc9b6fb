//! Putting the default package together from what was built: programs, images, configuration.
//!
//! Makes a folder; whether it becomes an archive is [`super::output`]'s.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};

use super::container::{self, Image, LayerFile};
use super::modules::{self, Module};
use super::parts::{Containerd, Etcd, Parts};
use super::release::Release;
use super::{assets, runtime, versions};
use crate::tarball::{Item, Tarball};
use build_tools::progress::{Progress, Stage};

/// Makes the package's folder at `target`, which does not exist.
pub(super) fn assemble(
    target: &Path,
    release: &Release,
    parts: &Parts,
    progress: &Progress,
) -> Result<()> {
    let stage = progress.stage("assembling the package");
    for folder in ["bin", "conf/net", "containerd", "images", "shell"] {
        let folder = target.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("creating `{}`", folder.display()))?;
    }
    let bin = target.join("bin");
    for name in ["kubeadm", "kubelet", "kubectl"] {
        install(&parts.kubernetes(name), &bin.join(name))?;
    }
    install(&parts.crictl.file("crictl"), &bin.join("crictl"))?;
    if needs_conntrack(release) {
        install(
            &parts.tree.path().join("usr/sbin/conntrack"),
            &bin.join("conntrack"),
        )?;
    }
    stage.at("containerd");
    runtime_archive(&target.join("containerd/containerd.tar.gz"), parts)?;
    let images = images(&target.join("images"), release, parts, &stage)?;
    texts(target, parts, &words(release, parts, &images)?)?;
    stage.done();
    Ok(())
}

/// kubeadm's preflight and kube-proxy look for the program before 1.32.
fn needs_conntrack(release: &Release) -> bool {
    release.minor_number() < 32
}

fn install(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("copying `{}` to `{}`", from.display(), to.display()))?;
    set_mode(to, 0o755)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("changing the mode of `{}`", path.display()))
}

fn runtime_archive(path: &Path, parts: &Parts) -> Result<()> {
    let file = File::create(path).with_context(|| format!("creating `{}`", path.display()))?;
    // No name and no date in the header: the same programs give the same bytes.
    let packer = GzBuilder::new().mtime(0).write(file, Compression::new(6));
    let mut tarball = Tarball::new(packer);
    for (name, item) in &runtime::containerd(parts)? {
        tarball.add(name, item)?;
    }
    tarball
        .finish()?
        .finish()
        .with_context(|| format!("writing `{}`", path.display()))?;
    Ok(())
}

/// Writes all images; returns their references.
fn images(folder: &Path, release: &Release, parts: &Parts, stage: &Stage) -> Result<Vec<String>> {
    let tree = parts.tree.path();
    let repository = release.repository;
    let scratch = tempfile::tempdir_in(folder).context("creating a temporary folder")?;
    let layer = |name: &str, items: &BTreeMap<String, Item>| {
        stage.at(format_args!("layer {name}"));
        container::layer(&scratch.path().join(name), items)
            .with_context(|| format!("making the layer `{name}`"))
    };
    let mut references = Vec::new();
    let mut write = |name: &str, reference: String, layers: &[LayerFile], entrypoint: &str| {
        stage.at(format_args!("image {reference}"));
        let image = Image {
            reference: &reference,
            layers,
            entrypoint: &[entrypoint],
            command: &[],
            user: "",
        };
        container::write(&folder.join(format!("{name}.tar")), &image)?;
        references.push(reference);
        anyhow::Ok(())
    };

    let base = layer("base", &runtime::skeleton())?;
    let iptables = layer("iptables", &runtime::iptables(tree)?)?;
    let tag = format!("v{}", parts.version);
    for (name, below) in [
        ("kube-apiserver", &base),
        ("kube-controller-manager", &base),
        ("kube-scheduler", &base),
        ("kube-proxy", &iptables),
    ] {
        let program = format!("usr/local/bin/{name}");
        let own = container::programs(&[(&program, parts.kubernetes(name))]);
        write(
            name,
            format!("{repository}/{name}:{tag}"),
            &[below.clone(), layer(name, &own)?],
            &format!("/{program}"),
        )?;
    }

    // The places and names of upstream's image, so that upstream's manifest fits.
    let flannel = container::programs(&[
        ("opt/bin/flanneld", parts.flannel.file("flanneld")),
        ("opt/bin/install-conf", parts.flannel.file("install-conf")),
    ]);
    write(
        "flannel",
        flannel_image(),
        &[iptables, layer("flannel", &flannel)?],
        "/opt/bin/flanneld",
    )?;

    let mut etcd = runtime::skeleton();
    let programs = [
        ("usr/local/bin/etcd", "usr/bin/etcd", "etcd"),
        ("usr/local/bin/etcdctl", "usr/bin/etcdctl", "etcdctl"),
    ];
    match &parts.etcd {
        Etcd::Debian => {
            etcd.extend(runtime::with_libraries(
                tree,
                &programs.map(|(_, from, _)| from),
            )?);
            etcd.extend(container::programs(
                &programs.map(|(to, from, _)| (to, tree.join(from))),
            ));
        }
        Etcd::Module(built, _) => etcd.extend(container::programs(
            &programs.map(|(to, _, name)| (to, built.file(name))),
        )),
    }
    write(
        "etcd",
        format!("{repository}/etcd:{}", parts.etcd_tag()?),
        &[layer("etcd", &etcd)?],
        "/usr/local/bin/etcd",
    )?;

    if let Some(coredns) = &parts.coredns {
        let own = container::programs(&[("coredns", coredns.file("coredns"))]);
        // `coredns/coredns` is where kubeadm looks below its default repository.
        write(
            "coredns",
            format!("{repository}/coredns/coredns:v{}", modules::COREDNS.version),
            &[base, layer("coredns", &own)?],
            "/coredns",
        )?;
    }

    let pause = layer(
        "pause",
        &container::programs(&[("pause", parts.pause().to_owned())]),
    )?;
    write("pause", pause_image(release), &[pause], "/pause")?;
    references.sort();
    Ok(references)
}

fn pause_image(release: &Release) -> String {
    format!("{}/pause:{}", release.repository, release.pause)
}

/// Upstream's name, because its manifest has it; the program is built here from the same source.
fn flannel_image() -> String {
    format!("ghcr.io/flannel-io/flannel:v{}", modules::FLANNEL.version)
}

/// What stands for each `@WORD@` in the texts.
fn words(
    release: &Release,
    parts: &Parts,
    images: &[String],
) -> Result<Vec<(&'static str, String)>> {
    let tree = parts.tree.path();
    let debian = |name| versions::of_package(tree, name).map(|version| format!("Debian {version}"));
    let module = |module: &Module| format!("Go module v{}", module.version);
    let mut list = String::new();
    for image in images {
        list.push_str(&format!("- `{image}`\n"));
    }
    Ok(vec![
        ("@VERSION@", format!("v{}", parts.version)),
        ("@SOURCE@", parts.source.clone()),
        ("@REPOSITORY@", release.repository.to_owned()),
        (
            "@KUBEADM_API@",
            kubeadm_api(release.minor_number()).to_owned(),
        ),
        ("@ETCD_TAG@", parts.etcd_tag()?),
        ("@PAUSE_IMAGE@", pause_image(release)),
        ("@FLANNEL_IMAGE@", flannel_image()),
        ("@ARGUMENTS@", arguments(release.minor_number())),
        ("@IMAGES@", list.trim_end().to_owned()),
        (
            "@CONTAINERD@",
            match parts.containerd {
                Containerd::Debian => debian("containerd")?,
                Containerd::Module(_) => module(&modules::CONTAINERD),
            },
        ),
        ("@CRICTL@", module(&modules::CRICTL)),
        ("@RUNC@", debian("runc")?),
        ("@CNI@", module(&modules::CNI_PLUGINS)),
        ("@FLANNEL_CNI@", module(&modules::FLANNEL_CNI)),
        (
            "@DNS@",
            match parts.coredns {
                Some(_) => "CoreDNS is kubeadm's add-on.",
                None => {
                    "This release has no CoreDNS: those of today need an API that it does not \
                     serve. Services are reached by address."
                }
            }
            .to_owned(),
        ),
    ])
}

/// The newest format that this release's kubeadm reads, for use of the file by hand.
fn kubeadm_api(minor: u32) -> &'static str {
    match minor {
        ..22 => "kubeadm.k8s.io/v1beta2",
        22..31 => "kubeadm.k8s.io/v1beta3",
        31.. => "kubeadm.k8s.io/v1beta4",
    }
}

/// Arguments of the control plane besides kubeadm's: no profiles, which show what a process holds.
/// kubeadm before 1.36 mounts the folder of FlexVolume plugins from the host and would create it
/// below /usr, which is read-only.
fn arguments(minor: u32) -> String {
    let mut text = String::new();
    for component in ["apiServer", "controllerManager", "scheduler"] {
        text.push_str(&format!("{component}:\n  extraArgs:\n"));
        let mut arguments = vec![("profiling", "false")];
        if component == "controllerManager" && minor < 36 {
            arguments.push(("flex-volume-plugin-dir", "/var/lib/kubelet/volume-plugins"));
        }
        for (name, value) in arguments {
            text.push_str(&match minor {
                ..31 => format!("    {name}: \"{value}\"\n"),
                31.. => format!("  - name: {name}\n    value: \"{value}\"\n"),
            });
        }
    }
    text
}

/// `conf/kubeadm.yaml` of the default package, for another package of Kubernetes 1.`minor`.
/// `version` has a leading `v`; `repository` and `etcd_tag` are those of its images.
pub fn kubeadm_configuration(
    minor: u32,
    version: &str,
    repository: &str,
    etcd_tag: &str,
) -> String {
    [
        ("@VERSION@", version),
        ("@REPOSITORY@", repository),
        ("@KUBEADM_API@", kubeadm_api(minor)),
        ("@ETCD_TAG@", etcd_tag),
        ("@ARGUMENTS@", &arguments(minor)),
    ]
    .iter()
    .fold(assets::KUBEADM.to_owned(), |text, (word, value)| {
        text.replace(word, value)
    })
}

fn texts(target: &Path, parts: &Parts, words: &[(&str, String)]) -> Result<()> {
    let containerd = match parts.containerd {
        Containerd::Debian => assets::CONTAINERD_1,
        Containerd::Module(_) => assets::CONTAINERD_2,
    };
    for (path, text) in assets::FILES.iter().chain([&containerd]) {
        let text = words
            .iter()
            .fold((*text).to_owned(), |text, (word, value)| {
                text.replace(word, value)
            });
        let to: PathBuf = target.join(path);
        fs::File::create(&to)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("writing `{}`", to.display()))?;
        set_mode(&to, if path.ends_with(".sh") { 0o755 } else { 0o644 })?;
    }
    Ok(())
}
