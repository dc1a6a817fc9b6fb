//! Docker of Debian 12 as programs of this host, and a package with it instead of containerd.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use build_tools::cache::{Cache, Key};
use build_tools::debian_tree::{Spec, Tree};
use build_tools::progress::Progress;
use default_package::package_of;

use super::process;

/// The last release with dockershim of which imagegen builds a package.
const KUBERNETES: &str = "1.20";

/// Name in upstream's archive, and the file in Debian's tree.
const PROGRAMS: &[(&str, &str)] = &[
    ("containerd", "usr/bin/containerd"),
    ("containerd-shim-runc-v2", "usr/bin/containerd-shim-runc-v2"),
    ("ctr", "usr/bin/ctr"),
    ("docker", "usr/bin/docker"),
    ("docker-init", "usr/bin/tini"),
    ("docker-proxy", "usr/sbin/docker-proxy"),
    ("dockerd", "usr/sbin/dockerd"),
    ("runc", "usr/sbin/runc"),
];

/// Debian's dockerd is linked to this library, which the node image does not have. Upstream's is
/// static.
const LIBRARY: &str = "libdevmapper.so.1.02.1";

/// Debian 12 with docker 20.10, not configured.
pub fn tree(cache: &Cache, progress: &Progress) -> Result<Tree> {
    let spec = Spec::new("docker", "bookworm", "extract", &["docker.io"]);
    Tree::ensure(cache, &spec, progress)
}

/// The folders of a tree with libraries.
fn libraries(tree: &Tree) -> [PathBuf; 2] {
    ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|folder| tree.path().join(folder))
}

/// Runs a script beside a dockerd with the images and containers of `data`, in namespaces of its
/// own. `images` appears as /usr/share/firstlight/images.
pub fn with_dockerd(tree: &Tree, data: &Path, images: &Path, script: &Path) -> Result<Command> {
    let around = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/host/dockerd.sh");
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = ["usr/sbin", "usr/bin"].map(|folder| tree.path().join(folder));
    let [sbin, bin] = programs.map(|folder| folder.display().to_string());
    let [first, second] = libraries(tree).map(|folder| folder.display().to_string());
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--mount-proc", "--"]);
    command.arg("sh").arg(around).args([data, images, script]);
    command.env("DOCKER_PATH", format!("{sbin}:{bin}:{path}"));
    command.env("DOCKER_LIBRARIES", format!("{first}:{second}"));
    Ok(command)
}

/// A package in the layout of sealos with `docker/docker.tgz`: Kubernetes, images, pod network and
/// CNI plugins of imagegen's own package, docker of Debian.
pub fn package(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let base = package_of(KUBERNETES, cache, progress)?;
    let tree = tree(cache, progress)?;
    let key = Key::new("docker-package", 1)
        .with("base", base.display().to_string())
        .with("tree", tree.path().display().to_string())
        .with("code", include_str!("docker.rs"));
    cache.ensure("docker-packages", &key, |making| {
        let stage = progress.stage("package with docker");
        assemble(&base, &tree, making)?;
        stage.done();
        Ok(())
    })
}

fn assemble(base: &Path, tree: &Tree, package: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    // Hard links: nothing writes to the files of a package.
    process::run(copy.args(["-al", "-T"]).arg(base).arg(package))?;
    let plugins = package.join("docker/cni-plugins");
    fs::create_dir_all(&plugins)?;
    let mut unpack = Command::new("tar");
    unpack
        .arg("-xzf")
        .arg(package.join("containerd/containerd.tar.gz"));
    process::run(unpack.arg("-C").arg(&plugins).arg("cni"))?;
    pack(&plugins, "cni", &package.join("docker/cni-plugins.tgz"))?;
    fs::remove_dir_all(&plugins)?;
    fs::remove_dir_all(package.join("containerd"))?;
    for name in [
        "containerd-config.toml",
        "containerd.service",
        "crictl.yaml",
    ] {
        fs::remove_file(package.join("conf").join(name))?;
    }

    let programs = package.join("docker/docker");
    fs::create_dir_all(&programs)?;
    for (name, file) in PROGRAMS {
        copy_file(&tree.path().join(file), &programs.join(name), 0o755)?;
    }
    pack(
        &package.join("docker"),
        "docker",
        &package.join("docker/docker.tgz"),
    )?;
    fs::remove_dir_all(&programs)?;

    let hooks = package.join("hooks");
    fs::create_dir_all(hooks.join("lib"))?;
    let library = libraries(tree)
        .map(|folder| folder.join(LIBRARY))
        .into_iter()
        .find(|file| file.is_file())
        .with_context(|| format!("the Debian tree has no {LIBRARY}"))?;
    copy_file(&library, &hooks.join("lib").join(LIBRARY), 0o644)?;
    let hook = hooks.join("build");
    fs::write(&hook, include_str!("docker_hook.sh"))?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn copy_file(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying `{}`", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// As upstream packs: one folder, gzip.
fn pack(folder: &Path, name: &str, archive: &Path) -> Result<()> {
    let mut pack = Command::new("tar");
    pack.args(["--sort=name", "--owner=0", "--group=0", "--mtime=@0"]);
    pack.arg("-C")
        .arg(folder)
        .arg("-czf")
        .arg(archive)
        .arg(name);
    process::run(&mut pack).map(|_| ())
}
