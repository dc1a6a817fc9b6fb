//! The images that a release of Kubernetes needs, by its own kubeadm.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use build_tools::process;
use semver::Version;

/// Debian's user nobody.
const NOBODY: u32 = 65534;

/// What kubeadm needs.
#[derive(Debug)]
pub(super) struct Kubeadm {
    /// Full names.
    pub(super) images: Vec<String>,
    /// Of kube-apiserver's image.
    pub(super) repository: String,
    pub(super) etcd_tag: String,
}

/// Runs `program`, which is for this machine, as the user nobody if this user is root: only a
/// checksum proves that it is kubeadm.
pub(super) fn ask(program: &Path, kubernetes: &Version) -> Result<Kubeadm> {
    let folder = tempfile::tempdir().context("creating a temporary folder")?;
    let copy = folder.path().join("kubeadm");
    let open = || fs::Permissions::from_mode(0o755);
    fs::copy(program, &copy)
        .and_then(|_| fs::set_permissions(&copy, open()))
        .and_then(|()| fs::set_permissions(folder.path(), open()))
        .with_context(|| format!("copying `{}` to `{}`", program.display(), copy.display()))?;
    let mut command = Command::new(&copy);
    command.args(["config", "images", "list", "--kubernetes-version"]);
    command.arg(format!("v{kubernetes}"));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .current_dir("/");
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let text = process::output(&mut command).context(
        "asking kubeadm which images it needs; if TMPDIR forbids programs, set it to another \
         folder",
    )?;
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    read(lines).with_context(|| format!("kubeadm v{kubernetes} lists these images:\n{text}"))
}

fn read<'t>(lines: impl Iterator<Item = &'t str>) -> Result<Kubeadm> {
    let images: Vec<String> = lines.map(str::to_owned).collect();
    let tagged = |name: &str| {
        images.iter().find_map(|image| {
            let (repository, tag) = image.rsplit_once(':')?;
            let parent = repository.strip_suffix(name)?.strip_suffix('/')?;
            Some((parent.to_owned(), tag.to_owned()))
        })
    };
    let (repository, _) = tagged("kube-apiserver").context("no kube-apiserver")?;
    let (_, etcd_tag) = tagged("etcd").context("no etcd")?;
    Ok(Kubeadm {
        repository,
        etcd_tag,
        images,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_and_etcd_are_found() {
        let list = "registry.k8s.io/kube-apiserver:v1.34.4\nregistry.k8s.io/etcd:3.6.5-0\n\
            registry.k8s.io/coredns/coredns:v1.12.1\n";
        let found = read(list.lines()).expect("a whole list");
        assert_eq!(found.repository, "registry.k8s.io");
        assert_eq!(found.etcd_tag, "3.6.5-0");
        assert_eq!(found.images.len(), 3);
        let error = read(list.lines().take(1)).expect_err("a part of it");
        assert_eq!(error.to_string(), "no etcd");
    }
}
