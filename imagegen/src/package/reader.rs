//! Opens a package (a folder, `.tar`, `.tar.gz` or `.tar.zst`) and checks all of it before first
//! use.
//!
//! An archive is read as a stream, and nothing is written before [`Package::extract_to`].
//! [`crate::image`] decides what the files mean.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::listing::{Kind, Listing};
use super::{scan, stream};

/// Runs inside the root while an image is built.
pub const BUILD_HOOK: &str = "hooks/build";

/// All hooks of a package: the build hook, and two that firstboot runs around the role.
const HOOKS: [&str; 3] = [BUILD_HOOK, "hooks/before-role", "hooks/after-role"];

/// A complete and valid package.
#[derive(Debug)]
pub struct Package {
    pub(super) path: PathBuf,
    pub(super) listing: Listing,
    /// `kube/` if the archive or folder has everything in one folder.
    pub(super) top: String,
    /// Contents of small files of an archive. Files of a folder are read on demand.
    small: BTreeMap<String, Vec<u8>>,
}

impl Package {
    /// Reads and checks the whole package. An error names the entry, or all missing files.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).with_context(|| format!("opening the package `{}`", path.display()))
    }

    fn read(path: &Path) -> Result<Self> {
        let mut small = BTreeMap::new();
        let listing = if fs::metadata(path)?.is_dir() {
            let mut listing = Listing::default();
            scan::folder(path, "", &mut listing)?;
            listing
        } else {
            scan::archive(path, &mut small)?
        };
        let top = listing.top().unwrap_or_default();
        let listing = listing.below(&top);
        listing.check()?;
        let small = small
            .into_iter()
            .map(|(name, bytes)| (name.strip_prefix(&top).unwrap_or(&name).to_owned(), bytes));
        let package = Self {
            path: path.to_owned(),
            small: small.collect(),
            listing,
            top,
        };
        package.require()?;
        Ok(package)
    }

    fn require(&self) -> Result<()> {
        let mut missing: Vec<&str> = [
            "bin/kubeadm",
            "bin/kubelet",
            "bin/kubectl",
            "conf/kubeadm.yaml",
            "conf/10-kubeadm.conf",
            "conf/kubelet.service",
        ]
        .into_iter()
        .filter(|name| self.listing.get(name).is_none())
        .collect();
        if self.images().next().is_none() {
            missing.push("images/*.tar");
        }
        if self.runtime().is_none() {
            missing.push("containerd/*.tar.gz or docker/docker.tgz");
        } else if self
            .runtime()
            .is_some_and(|name| name.starts_with("containerd/"))
            && self.listing.get("bin/crictl").is_none()
        {
            missing.push("bin/crictl (kubeadm calls it to reach containerd)");
        }
        ensure!(
            missing.is_empty(),
            "it lacks {}; is it a package in sealos's layout?",
            missing.join(", ")
        );
        self.check_hooks()
    }

    /// Rejects hooks that would never run.
    fn check_hooks(&self) -> Result<()> {
        for (name, kind) in self.listing.iter() {
            let Some(hook) = name.strip_prefix("hooks/").filter(|n| !n.contains('/')) else {
                continue;
            };
            let executable = !matches!(
                kind,
                Kind::File {
                    executable: false,
                    ..
                }
            );
            match (HOOKS.contains(&name), executable) {
                (true, false) => bail!("its hook `{name}` is not executable; chmod +x it"),
                (false, true) => bail!(
                    "unknown hook `{hook}`: hooks are {}; put other executables in a folder below \
                     `hooks/`",
                    HOOKS.join(", ")
                ),
                _ => {}
            }
        }
        Ok(())
    }

    /// A digest of all names, modes and contents, equal for a folder and every archive of it.
    pub fn digest(&self) -> String {
        self.listing.digest()
    }

    /// Total size of all files in bytes.
    pub fn size(&self) -> u64 {
        self.listing.size()
    }

    /// Whether the package has a file or symlink with this name.
    pub fn contains(&self, name: &str) -> bool {
        self.listing.get(name).is_some()
    }

    /// Names of all files and symlinks, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.listing.iter().map(|(name, _)| name)
    }

    /// Names of the image archives: `images/*.tar`, `.tar.gz`, `.tgz`, `.tar.zst`.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        self.names().filter(|name| {
            let archive = [".tar", ".tar.gz", ".tgz", ".tar.zst"]
                .iter()
                .any(|end| name.ends_with(end));
            archive
                && name
                    .strip_prefix("images/")
                    .is_some_and(|rest| !rest.contains('/'))
        })
    }

    /// The archive with the container runtime.
    pub fn runtime(&self) -> Option<&str> {
        let archive = |name: &&str| {
            [".tar.gz", ".tgz", ".tar", ".tar.zst"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        ["containerd/", "docker/"].iter().find_map(|folder| {
            self.names()
                .filter(archive)
                .find(|name| name.starts_with(folder))
        })
    }

    /// The contents of a file, if it exists. A large file of an archive takes one pass over the
    /// archive.
    pub fn file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if let Some(bytes) = self.small.get(name) {
            return Ok(Some(bytes.clone()));
        }
        if !self.contains(name) {
            return Ok(None);
        }
        if self.path.is_dir() {
            let path = self.path.join(&self.top).join(name);
            return fs::read(&path)
                .map(Some)
                .with_context(|| format!("reading `{}`", path.display()));
        }
        let mut found = None;
        stream::entries(stream::open(&self.path)?, |entry| {
            if found.is_none() && self.name_of(entry)? == name {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(stream::explained)?;
                found = Some(bytes);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The release of Kubernetes, without a leading `v`.
    ///
    /// It is `kubernetesVersion` in `conf/kubeadm.yaml`, which kubeadm reads too. Opening a package
    /// runs none of its programs, and searching kubeadm's binary is no alternative: a Go program of
    /// 2020 has no unambiguous record of its version. The image build compares the version with
    /// kube-apiserver's tag.
    pub fn kubernetes_version(&self) -> Result<semver::Version> {
        let text = self.file("conf/kubeadm.yaml")?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut values = text
            .lines()
            .filter_map(|line| line.strip_prefix("kubernetesVersion:"));
        let Some(value) = values.next() else {
            bail!(
                "the package's `conf/kubeadm.yaml` has no `kubernetesVersion`; add \
                 `kubernetesVersion: v1.20.2`"
            );
        };
        let value = value
            .split(" #")
            .next()
            .unwrap_or(value)
            .trim()
            .trim_matches(['"', '\'']);
        value.trim_start_matches('v').parse().with_context(|| {
            format!("the package's `conf/kubeadm.yaml` has `kubernetesVersion: {value}`, which is no release such as v1.20.2")
        })
    }

    /// The name of an archive entry below the top folder.
    pub(super) fn name_of(&self, entry: &tar::Entry<'_, impl Read>) -> Result<String> {
        let name = scan::entry_name(entry)?;
        Ok(name
            .strip_prefix(&self.top)
            .map(str::to_owned)
            .unwrap_or(name))
    }
}

#[cfg(test)]
mod tests;
