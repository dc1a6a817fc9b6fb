//! Opening a package: a folder, `.tar`, `.tar.gz` or `.tar.zst`, checked as a whole before anything is taken from it.
//!
//! An archive is read as a stream: nothing is written until [`Package::extract_to`]. What the files mean is decided by
//! whoever bakes them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::listing::{Kind, Listing, clean};
use super::stream;

/// Files up to this size are kept in memory while an archive is read: configuration and scripts, not programs.
const SMALL: u64 = 1 << 20;
/// And so much of them in all.
const SMALL_TOTAL: u64 = 64 << 20;
/// What extraction leaves free for others.
const SPARE: u64 = 64 << 20;

/// A package that is whole and that keeps the rules.
#[derive(Debug)]
pub struct Package {
    path: PathBuf,
    listing: Listing,
    /// `kube/` where an archive or folder has everything in one folder.
    top: String,
    /// Contents of small files; empty for a folder, which is read on demand.
    small: BTreeMap<String, Vec<u8>>,
}

impl Package {
    /// Reads all of the package and checks it. Errors name the entry; all missing files are named at once.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).with_context(|| format!("opening the package `{}`", path.display()))
    }

    fn read(path: &Path) -> Result<Self> {
        let mut small = BTreeMap::new();
        let listing = if fs::metadata(path)?.is_dir() {
            let mut listing = Listing::default();
            read_folder(path, "", &mut listing)?;
            listing
        } else {
            read_archive(path, &mut small)?
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
            missing.push("bin/crictl (kubeadm asks containerd by it)");
        }
        ensure!(
            missing.is_empty(),
            "it lacks {}; is it a package in sealos's layout?",
            missing.join(", ")
        );
        Ok(())
    }

    /// `sha256:…` over all names, modes and contents: the same for a folder and for every archive of it.
    pub fn digest(&self) -> String {
        self.listing.digest()
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.listing.size()
    }

    /// Whether the package has a file (or symlink) of this name.
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

    /// Name of the archive with the container runtime.
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

    /// The contents of a file; `None` when there is none of that name. Small files of an archive are at hand; a large one
    /// costs a pass over the archive.
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
    /// It is what `conf/kubeadm.yaml` says (`kubernetesVersion`): kubeadm itself takes it from there. Neither kubeadm is
    /// run to ask it (a package's programs are not run on the building machine) nor is its binary searched: a Go program
    /// of 2020 has no record of its version that could be told from any other text in it. Whoever bakes the images
    /// compares with kube-apiserver's tag.
    pub fn kubernetes_version(&self) -> Result<semver::Version> {
        let text = self.file("conf/kubeadm.yaml")?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut values = text
            .lines()
            .filter_map(|line| line.strip_prefix("kubernetesVersion:"));
        let Some(value) = values.next() else {
            bail!(
                "the package's `conf/kubeadm.yaml` has no `kubernetesVersion`; add a line like `kubernetesVersion: v1.20.2`"
            );
        };
        let value = value
            .split(" #")
            .next()
            .unwrap_or(value)
            .trim()
            .trim_matches(['"', '\'']);
        value.trim_start_matches('v').parse().with_context(|| {
            format!("the package's `conf/kubeadm.yaml` has `kubernetesVersion: {value}`, which is not a release like v1.20.2")
        })
    }

    /// Writes the package to `target`, which must not exist. It appears whole or not at all.
    pub fn extract_to(&self, target: &Path) -> Result<()> {
        self.extract(target)
            .with_context(|| format!("extracting the package `{}`", self.path.display()))
    }

    fn extract(&self, target: &Path) -> Result<()> {
        ensure!(
            fs::symlink_metadata(target).is_err(),
            "`{}` is already there",
            target.display()
        );
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).with_context(|| format!("creating `{}`", parent.display()))?;
        room(parent, self.size())?;
        let scratch = tempfile::Builder::new()
            .prefix(".package-")
            .tempdir_in(parent)
            .with_context(|| format!("creating a folder in `{}`", parent.display()))?;
        let root = scratch.path().join("package");
        fs::create_dir(&root).with_context(|| format!("creating `{}`", root.display()))?;
        if self.path.is_dir() {
            for (name, kind) in self.listing.iter() {
                if matches!(kind, Kind::File { .. }) {
                    let from = self.path.join(&self.top).join(name);
                    self.place(
                        &root,
                        name,
                        File::open(&from)
                            .with_context(|| format!("opening `{}`", from.display()))?,
                    )?;
                }
            }
        } else {
            stream::entries(stream::open(&self.path)?, |entry| {
                let name = self.name_of(entry)?;
                if entry.header().entry_type() == EntryType::Link {
                    let source = link_name(entry)?;
                    let source = root.join(source.strip_prefix(&self.top).unwrap_or(&source));
                    self.place(
                        &root,
                        &name,
                        File::open(&source)
                            .with_context(|| format!("opening `{}`", source.display()))?,
                    )?;
                } else if is_file(entry.header().entry_type()) {
                    self.place(&root, &name, entry)?;
                }
                Ok(())
            })?;
        }
        for (name, kind) in self.listing.iter() {
            if let Kind::Symlink { target } = kind {
                let path = prepare(&root, name)?;
                std::os::unix::fs::symlink(target, &path)
                    .with_context(|| format!("linking `{}`", path.display()))?;
            }
        }
        fs::rename(&root, target).with_context(|| format!("renaming to `{}`", target.display()))
    }

    /// Writes one file, with the mode and the contents that the listing has seen.
    fn place(&self, root: &Path, name: &str, data: impl Read) -> Result<()> {
        let Some(Kind::File {
            sha256, executable, ..
        }) = self.listing.get(name)
        else {
            bail!("entry `{name}` was not there when the package was opened; it changed meanwhile");
        };
        let path = prepare(root, name)?;
        let mut file =
            File::create_new(&path).with_context(|| format!("creating `{}`", path.display()))?;
        let (_, written) =
            digest(data, |bytes| file.write_all(bytes)).map_err(|e| match e.kind() {
                io::ErrorKind::StorageFull => {
                    anyhow::anyhow!("writing `{name}`: there is not enough space")
                }
                _ => stream::explained(e).context(format!("writing `{name}`")),
            })?;
        ensure!(
            written == *sha256,
            "entry `{name}` changed since the package was opened"
        );
        let mode = if *executable { 0o755 } else { 0o644 };
        file.set_permissions(fs::Permissions::from_mode(mode))
            .with_context(|| format!("changing the mode of `{name}`"))
    }

    fn name_of(&self, entry: &tar::Entry<'_, impl Read>) -> Result<String> {
        let name = entry_name(entry)?;
        Ok(name
            .strip_prefix(&self.top)
            .map(str::to_owned)
            .unwrap_or(name))
    }
}

fn prepare(root: &Path, name: &str) -> Result<PathBuf> {
    let path = root.join(name);
    let folder = path.parent().unwrap_or(root);
    fs::create_dir_all(folder).with_context(|| format!("creating `{}`", folder.display()))?;
    Ok(path)
}

/// Refuses before the first byte when `size` bytes and some to spare do not fit.
fn room(folder: &Path, size: u64) -> Result<()> {
    let info = nix::sys::statvfs::statvfs(folder)
        .with_context(|| format!("asking for the space in `{}`", folder.display()))?;
    let free = info.blocks_available() * info.fragment_size();
    ensure!(
        free >= size + SPARE,
        "there is not enough space in `{}`: {} MiB are needed, {} MiB are free",
        folder.display(),
        (size + SPARE) >> 20,
        free >> 20
    );
    Ok(())
}

fn is_file(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
    )
}

fn entry_name(entry: &tar::Entry<'_, impl Read>) -> Result<String> {
    let name = entry.path_bytes();
    let name = std::str::from_utf8(&name).with_context(|| {
        format!(
            "entry `{}` has a name that is not UTF-8",
            String::from_utf8_lossy(&name)
        )
    })?;
    clean(name)
}

fn link_name(entry: &tar::Entry<'_, impl Read>) -> Result<String> {
    let target = entry.link_name_bytes().context("a link leads nowhere")?;
    let target = std::str::from_utf8(&target).context("a link's target is not UTF-8")?;
    clean(target).with_context(|| format!("hard link to `{target}`"))
}

fn read_archive(path: &Path, small: &mut BTreeMap<String, Vec<u8>>) -> Result<Listing> {
    let mut listing = Listing::default();
    let mut kept = 0;
    stream::entries(stream::open(path)?, |entry| {
        let name = entry_name(entry)?;
        let header = entry.header();
        let executable = header.mode().unwrap_or(0o644) & 0o111 != 0;
        match header.entry_type() {
            EntryType::Directory | EntryType::XGlobalHeader => {}
            kind if is_file(kind) => {
                let size = entry.size();
                let keep = size <= SMALL && kept + size <= SMALL_TOTAL;
                let mut bytes = Vec::new();
                let (read, sha256) = digest(&mut *entry, |part| {
                    if keep {
                        bytes.extend_from_slice(part);
                    }
                    Ok(())
                })
                .map_err(|e| stream::explained(e).context(format!("reading entry `{name}`")))?;
                listing.add(
                    name.clone(),
                    Kind::File {
                        size: read,
                        sha256,
                        executable,
                    },
                )?;
                if keep {
                    kept += size;
                    small.insert(name, bytes);
                }
            }
            EntryType::Symlink => {
                let target = entry
                    .link_name_bytes()
                    .with_context(|| format!("symlink `{name}` leads nowhere"))?;
                let target = std::str::from_utf8(&target)
                    .with_context(|| format!("symlink `{name}` leads to something not UTF-8"))?;
                listing.add(
                    name,
                    Kind::Symlink {
                        target: target.to_owned(),
                    },
                )?;
            }
            EntryType::Link => {
                let target = link_name(entry).with_context(|| format!("entry `{name}`"))?;
                let Some(Kind::File { .. }) = listing.get(&target) else {
                    bail!(
                        "entry `{name}` is a hard link to `{target}`, which is not an earlier file of the package"
                    );
                };
                let kind = listing.get(&target).cloned().context("seen above")?;
                if let Some(bytes) = small.get(&target).cloned() {
                    small.insert(name.clone(), bytes);
                }
                listing.add(name, kind)?;
            }
            EntryType::Block | EntryType::Char => {
                bail!("entry `{name}` is a device node; a package holds files, folders and links")
            }
            EntryType::Fifo => {
                bail!("entry `{name}` is a pipe; a package holds files, folders and links")
            }
            other => bail!("entry `{name}` is of the unknown kind {other:?}"),
        }
        Ok(())
    })?;
    Ok(listing)
}

fn read_folder(root: &Path, below: &str, listing: &mut Listing) -> Result<()> {
    let folder = root.join(below);
    for entry in fs::read_dir(&folder).with_context(|| format!("reading `{}`", folder.display()))? {
        let entry = entry.with_context(|| format!("reading `{}`", folder.display()))?;
        let name = entry.file_name();
        let name = name.to_str().with_context(|| {
            format!("`{}` has a name that is not UTF-8", entry.path().display())
        })?;
        let name = if below.is_empty() {
            name.to_owned()
        } else {
            format!("{below}/{name}")
        };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            read_folder(root, &name, listing)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path())?;
            let target = target
                .to_str()
                .with_context(|| format!("symlink `{name}` leads to something not UTF-8"))?;
            listing.add(
                name,
                Kind::Symlink {
                    target: target.to_owned(),
                },
            )?;
        } else if kind.is_file() {
            let file = File::open(entry.path())
                .with_context(|| format!("opening `{}`", entry.path().display()))?;
            let executable = file.metadata()?.permissions().mode() & 0o111 != 0;
            let (size, sha256) = digest(file, |_| Ok(()))
                .with_context(|| format!("reading `{}`", entry.path().display()))?;
            listing.add(
                name,
                Kind::File {
                    size,
                    sha256,
                    executable,
                },
            )?;
        } else {
            bail!(
                "entry `{name}` is a device node, pipe or socket; a package holds files, folders and links"
            );
        }
    }
    Ok(())
}

/// Reads to the end, gives every part to `each`; returns length and SHA-256.
fn digest(
    mut data: impl Read,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(u64, [u8; 32])> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut size = 0;
    loop {
        let n = match data.read(&mut buffer) {
            Ok(0) => return Ok((size, hash.finalize().into())),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        hash.update(&buffer[..n]);
        each(&buffer[..n])?;
        size += n as u64;
    }
}
