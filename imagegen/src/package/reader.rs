//! Opens a package (a folder or a tar archive) and checks all of it before first
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
use super::probe::Contents;
use super::{Verdict, cluster, scan, stream};

/// Runs inside the root while an image is built.
pub const BUILD_HOOK: &str = "hooks/build";

/// All hooks of a package: the build hook, and two that firstboot runs around the role.
pub(super) const HOOKS: [&str; 3] = [BUILD_HOOK, "hooks/before-role", "hooks/after-role"];

/// A complete and valid package.
#[derive(Debug)]
pub struct Package {
    pub(super) path: PathBuf,
    pub(super) listing: Listing,
    /// `kube/` if the archive or folder has everything in one folder.
    pub(super) top: String,
    /// Contents of small files of an archive. Files of a folder are read on demand.
    small: BTreeMap<String, Vec<u8>>,
    /// What each file is.
    pub(super) contents: BTreeMap<String, Contents>,
    /// Names in a cluster image by names in the layout.
    real: BTreeMap<String, String>,
    /// Files that a cluster image does not have.
    pub(super) made: BTreeMap<String, Vec<u8>>,
}

impl Package {
    /// Reads and checks the whole package. An error names the entry, or all that is wrong.
    pub fn open(path: &Path) -> Result<Self> {
        let package = Self::read(path)?;
        package
            .verdict()
            .refuse()
            .with_context(|| format!("opening the package `{}`", path.display()))?;
        Ok(package)
    }

    /// What becomes of each part, and all that is wrong.
    pub fn verdict(&self) -> Verdict {
        Verdict::of(self)
    }

    /// [`open`](Self::open) without what the files hold: entries, required files and hooks only.
    pub fn read(path: &Path) -> Result<Self> {
        Self::scan(path)
            .and_then(|package| package.require().map(|()| package))
            .with_context(|| format!("opening the package `{}`", path.display()))
    }

    fn scan(path: &Path) -> Result<Self> {
        let found = if fs::metadata(path)?.is_dir() {
            let mut found = scan::Found::default();
            scan::folder(path, "", &mut found)?;
            found
        } else {
            scan::archive(path)?
        };
        let top = found.listing.top().unwrap_or_default();
        let listing = found.listing.below(&top);
        listing.check()?;
        let below = |name: String| name.strip_prefix(&top).map(str::to_owned).unwrap_or(name);
        let small = found.small.into_iter();
        let contents = found.contents.into_iter();
        let package = Self {
            path: path.to_owned(),
            small: small.map(|(name, bytes)| (below(name), bytes)).collect(),
            contents: contents.map(|(name, found)| (below(name), found)).collect(),
            listing,
            top,
            real: BTreeMap::new(),
            made: BTreeMap::new(),
        };
        if cluster::is_tree(&package.listing) {
            return package
                .translated()
                .context("reading it as a cluster image of sealos");
        }
        Ok(package)
    }

    /// A cluster image of sealos 4 with the names of the layout.
    fn translated(mut self) -> Result<Self> {
        let read = |name: &str| -> Result<Vec<u8>> { Ok(self.file(name)?.unwrap_or_default()) };
        let found = cluster::translate(&self.listing, &self.contents, &read)?;
        self.listing = self.listing.renamed(&found.names)?;
        let new = |name: String| found.names.get(&name).cloned().unwrap_or(name);
        let small = std::mem::take(&mut self.small).into_iter();
        self.small = small.map(|(name, bytes)| (new(name), bytes)).collect();
        let contents = std::mem::take(&mut self.contents).into_iter();
        self.contents = contents.map(|(name, what)| (new(name), what)).collect();
        for (name, bytes) in &found.made {
            let (size, sha256) = scan::digest(bytes.as_slice(), |_| Ok(()))?;
            let executable = false;
            self.listing.add(
                name.clone(),
                Kind::File {
                    size,
                    sha256,
                    executable,
                },
            )?;
            self.small.insert(name.clone(), bytes.clone());
        }
        self.real = found
            .names
            .into_iter()
            .map(|(tree, name)| (name, tree))
            .collect();
        self.made = found.made;
        Ok(self)
    }

    /// Whether the package is a cluster image of sealos 4.
    pub(super) fn is_cluster_image(&self) -> bool {
        !self.made.is_empty()
    }

    /// The name in the folder or archive, below its top.
    pub(super) fn real_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.real.get(name).map_or(name, String::as_str)
    }

    /// The name in the layout of a name in the archive.
    pub(super) fn layout_name(&self, real: &str) -> String {
        let found = self.real.iter().find(|(_, tree)| *tree == real);
        found.map_or(real, |(name, _)| name).to_owned()
    }

    fn require(&self) -> Result<()> {
        let mut missing: Vec<&str> = [
            "bin/kubeadm",
            "bin/kubelet",
            "bin/kubectl",
            "conf/kubeadm.yaml",
        ]
        .into_iter()
        .filter(|name| self.listing.get(name).is_none())
        .collect();
        let has = |folder: &str| self.names().any(|name| name.starts_with(folder));
        if !has("images/") {
            missing.push("images/*.tar");
        }
        if !has("containerd/") && !has("docker/") {
            missing.push("containerd/*.tar.gz or docker/docker.tgz");
        }
        if let Some(why) = super::verdict::cluster_image(self) {
            bail!("{why}");
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
            let path = self.path.join(&self.top).join(self.real_name(name));
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
            format!(
                "the package's `conf/kubeadm.yaml` has `kubernetesVersion: {value}`, which is no \
                 release such as v1.20.2"
            )
        })
    }

    /// The name of an archive entry below the top folder.
    pub(super) fn name_of(&self, entry: &tar::Entry<'_, impl Read>) -> Result<String> {
        let name = scan::entry_name(entry)?;
        Ok(self.layout_name(name.strip_prefix(&self.top).unwrap_or(&name)))
    }
}

#[cfg(test)]
mod tests;
