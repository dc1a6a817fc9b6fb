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
use super::kubernetes::Programs;
use super::{assets, runtime, versions};
use crate::tarball::{Item, Tarball};
use build_tools::progress::{Progress, Stage};

const REPOSITORY: &str = "k8s.gcr.io";
/// kubeadm 1.20 and containerd's configuration name it.
const PAUSE: &str = "k8s.gcr.io/pause:3.2";
/// Raised when podnet's image changes, so that a node never runs an old one under the same name.
const PODNET: &str = "firstlight.local/podnet:v1";

/// Makes the package's folder at `target`, which does not exist. `tree` is [`runtime::tree`].
pub(super) fn assemble(
    target: &Path,
    programs: &Programs,
    tree: &Path,
    progress: &Progress,
) -> Result<()> {
    let stage = progress.stage("assembling the package");
    for folder in ["bin", "conf/net", "containerd", "images", "shell"] {
        let folder = target.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("creating `{}`", folder.display()))?;
    }
    for name in ["kubeadm", "kubelet", "kubectl", "crictl"] {
        install(&programs.file(name), &target.join("bin").join(name))?;
    }
    install(
        &tree.join("usr/sbin/conntrack"),
        &target.join("bin/conntrack"),
    )?;
    stage.at("containerd");
    runtime_archive(&target.join("containerd/containerd.tar.gz"), tree)?;
    let images = images(&target.join("images"), programs, tree, &stage)?;
    texts(target, &words(programs, tree, &images)?)?;
    stage.done();
    Ok(())
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

fn runtime_archive(path: &Path, tree: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("creating `{}`", path.display()))?;
    // No name and no date in the header: the same programs give the same bytes.
    let packer = GzBuilder::new().mtime(0).write(file, Compression::new(6));
    let mut tarball = Tarball::new(packer);
    for (name, item) in &runtime::containerd(tree)? {
        tarball.add(name, item)?;
    }
    tarball
        .finish()?
        .finish()
        .with_context(|| format!("writing `{}`", path.display()))?;
    Ok(())
}

/// Writes all images; returns their references.
fn images(folder: &Path, programs: &Programs, tree: &Path, stage: &Stage) -> Result<Vec<String>> {
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
        };
        container::write(&folder.join(format!("{name}.tar")), &image)?;
        references.push(reference);
        anyhow::Ok(())
    };

    let base = layer("base", &runtime::skeleton())?;
    let iptables = layer("iptables", &runtime::iptables(tree)?)?;
    let own = |name: &str| {
        layer(
            name,
            &container::programs(&[(&format!("usr/local/bin/{name}"), programs.file(name))]),
        )
    };
    let tag = format!("v{}", programs.version);
    for name in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
    ] {
        let layers = [base.clone(), own(name)?];
        write(
            name,
            format!("{REPOSITORY}/{name}:{tag}"),
            &layers,
            &format!("/usr/local/bin/{name}"),
        )?;
    }
    let layers = [iptables.clone(), own("kube-proxy")?];
    write(
        "kube-proxy",
        format!("{REPOSITORY}/kube-proxy:{tag}"),
        &layers,
        "/usr/local/bin/kube-proxy",
    )?;
    write(
        "podnet",
        PODNET.to_owned(),
        &[iptables, own("podnet")?],
        "/usr/local/bin/podnet",
    )?;

    let etcd = [
        ("usr/local/bin/etcd", "usr/bin/etcd"),
        ("usr/local/bin/etcdctl", "usr/bin/etcdctl"),
    ];
    let mut items = runtime::with_libraries(tree, &etcd.map(|(_, from)| from))?;
    items.extend(runtime::skeleton());
    items.extend(container::programs(
        &etcd.map(|(name, from)| (name, tree.join(from))),
    ));
    write(
        "etcd",
        format!("{REPOSITORY}/etcd:{}", etcd_tag(tree)?),
        &[layer("etcd", &items)?],
        "/usr/local/bin/etcd",
    )?;

    let pause = layer(
        "pause",
        &container::programs(&[("pause", programs.file("pause"))]),
    )?;
    write("pause", PAUSE.to_owned(), &[pause], "/pause")?;
    references.sort();
    Ok(references)
}

/// As Kubernetes tags its etcd images: upstream's version and a build number.
fn etcd_tag(tree: &Path) -> Result<String> {
    Ok(versions::upstream(&versions::of_package(tree, "etcd-server")?) + "-0")
}

/// What stands for each `@WORD@` in the texts.
fn words(
    programs: &Programs,
    tree: &Path,
    images: &[String],
) -> Result<Vec<(&'static str, String)>> {
    let package = |name| versions::of_package(tree, name);
    let mut words = vec![
        ("@VERSION@", format!("v{}", programs.version)),
        ("@SOURCE@", programs.source.clone()),
        ("@ETCD_TAG@", etcd_tag(tree)?),
        ("@PODNET_IMAGE@", PODNET.to_owned()),
        (
            "@IMAGES@",
            images
                .iter()
                .map(|i| format!("- `{i}`\n"))
                .collect::<String>()
                .trim_end()
                .to_owned(),
        ),
    ];
    for (word, name) in [
        ("@CONNTRACK@", "conntrack"),
        ("@CONTAINERD@", "containerd"),
        ("@RUNC@", "runc"),
        ("@CNI@", "containernetworking-plugins"),
    ] {
        words.push((word, package(name)?));
    }
    Ok(words)
}

fn texts(target: &Path, words: &[(&str, String)]) -> Result<()> {
    for (path, text) in assets::FILES {
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
