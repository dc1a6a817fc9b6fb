//! Composes the root file system: Debian's base, the package, the programs of this repository, and
//! `root_files`.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use userdata::image_info::ImageInfo;

use super::archive::{Archive, Placed};
use super::root_files::{self, REMOVED};

/// The sources of a root.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Debian's base as a tar file.
    pub base: &'a Path,
    /// `usr/lib/modules/<release>` of the kernel that boots the image.
    pub modules: &'a Path,
    pub release: &'a str,
    /// The package, unpacked.
    pub package: &'a Path,
    /// firstboot and lvscare, static.
    pub programs: &'a Path,
    pub facts: &'a ImageInfo,
    /// For unpacked archives.
    pub work: &'a Path,
}

/// The whole root except the container images, which [`containerd`](super::containerd) adds.
pub fn compose(inputs: &Inputs<'_>) -> Result<Archive> {
    let mut root = Archive::default();
    base(&mut root, inputs.base)?;
    root.host_folder(
        &format!("usr/lib/modules/{}", inputs.release),
        inputs.modules,
    )?;
    runtime(&mut root, inputs)?;
    package(&mut root, inputs)?;
    for program in super::programs::NAMES {
        root.host_file(
            &format!("usr/bin/{program}"),
            0o755,
            &inputs.programs.join(program),
        )?;
    }
    root_files::add(&mut root, inputs.facts)?;
    Ok(root)
}

fn base(root: &mut Archive, tar: &Path) -> Result<()> {
    let file = Arc::new(File::open(tar).with_context(|| format!("opening `{}`", tar.display()))?);
    root.add_tar(&file, |path| Some(Placed::At(path.to_owned())))?;
    for path in REMOVED {
        root.remove(path);
    }
    Ok(())
}

/// Adds the container runtime from the package's `containerd/` or `docker/` archive: programs to
/// /usr/bin and CNI plug-ins to /usr/lib/cni, wherever they lie in the archive.
fn runtime(root: &mut Archive, inputs: &Inputs<'_>) -> Result<()> {
    let mut found = Vec::new();
    for folder in ["containerd", "docker"] {
        let path = inputs.package.join(folder);
        let Ok(entries) = std::fs::read_dir(&path) else {
            continue;
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("reading `{}`", path.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
                found.push(format!("{folder}/{name}"));
            }
        }
    }
    found.sort();
    let [archive] = found.as_slice() else {
        bail!(
            "the package needs one `containerd/*.tar.gz` or `docker/*.tgz`, but has {}",
            found.len()
        );
    };
    // Errors use the name in the package: the folder is gone when a person reads them.
    let unpacking = || format!("unpacking `{archive}` of the package");
    let unpacked = gunzip(&inputs.package.join(archive), inputs.work).with_context(unpacking)?;
    let unpacked = Arc::new(unpacked);
    root.add_tar(&unpacked, |path| {
        let (folder, name) = path.rsplit_once('/')?;
        let place = match folder.rsplit('/').next() {
            Some("bin") if folder.ends_with("cni/bin") => format!("usr/lib/cni/{name}"),
            Some("bin" | "sbin" | "docker") => format!("usr/bin/{name}"),
            _ => return None,
        };
        Some(Placed::At(place))
    })
    .with_context(unpacking)?;
    for program in ["containerd", "runc"] {
        if root.get(&format!("usr/bin/{program}")).is_none() {
            bail!("`{archive}` of the package has no `{program}`");
        }
    }
    Ok(())
}

fn gunzip(archive: &Path, work: &Path) -> Result<File> {
    let mut input = BufReader::new(File::open(archive)?);
    let mut out = tempfile::tempfile_in(work).context("creating a temporary file")?;
    if input.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        std::io::copy(&mut flate2::bufread::MultiGzDecoder::new(input), &mut out)?;
    } else {
        std::io::copy(&mut input, &mut out)?;
    }
    Ok(out)
}

/// Adds `bin/`, `conf/` and `hooks/` of the package.
fn package(root: &mut Archive, inputs: &Inputs<'_>) -> Result<()> {
    let bin = inputs.package.join("bin");
    for entry in std::fs::read_dir(&bin).with_context(|| format!("reading `{}`", bin.display()))? {
        let path = entry
            .with_context(|| format!("reading `{}`", bin.display()))?
            .path();
        if let (true, Some(name)) = (path.is_file(), path.file_name().and_then(|n| n.to_str())) {
            root.host_file(&format!("usr/bin/{name}"), 0o755, &path)?;
        }
    }
    let conf = inputs.package.join("conf");
    root.directory(userdata::contract::CONF_DIR, 0o755);
    root.host_folder(userdata::contract::CONF_DIR.trim_start_matches('/'), &conf)?;
    let units = "usr/lib/systemd/system";
    let required = [
        ("kubelet.service", format!("{units}/kubelet.service")),
        (
            "10-kubeadm.conf",
            format!("{units}/kubelet.service.d/10-kubeadm.conf"),
        ),
        ("containerd.service", format!("{units}/containerd.service")),
        (
            "containerd-config.toml",
            "etc/containerd/config.toml".to_owned(),
        ),
    ];
    for (name, place) in required {
        root.host_file(&place, 0o644, &conf.join(name))
            .with_context(|| format!("the package has no `conf/{name}`"))?;
    }
    if conf.join("crictl.yaml").is_file() {
        root.host_file("etc/crictl.yaml", 0o644, &conf.join("crictl.yaml"))?;
    }
    let hooks = inputs.package.join("hooks");
    if hooks.is_dir() {
        root.host_folder(
            userdata::contract::HOOKS_DIR.trim_start_matches('/'),
            &hooks,
        )?;
    }
    Ok(())
}
