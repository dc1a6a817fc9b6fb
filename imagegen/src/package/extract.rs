//! Extracts a package from its archive, or copies its folder.
//!
//! The result appears complete or not at all, with exactly the contents that were checked on open.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use tar::EntryType;

use super::listing::Kind;
use super::reader::Package;
use super::{scan, stream};

/// Space that extraction leaves free.
const SPARE: u64 = 64 << 20;

impl Package {
    /// Writes the package to `target`, which must not exist.
    pub fn extract_to(&self, target: &Path) -> Result<()> {
        self.extract(target)
            .with_context(|| format!("extracting the package `{}`", self.path.display()))
    }

    fn extract(&self, target: &Path) -> Result<()> {
        ensure!(
            fs::symlink_metadata(target).is_err(),
            "`{}` exists already",
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
                if matches!(kind, Kind::File { .. }) && !self.made.contains_key(name) {
                    let from = self.path.join(&self.top).join(self.real_name(name));
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
                    let source = scan::link_name(entry)?;
                    let source = source.strip_prefix(&self.top).unwrap_or(&source);
                    let source = root.join(self.layout_name(source));
                    self.place(
                        &root,
                        &name,
                        File::open(&source)
                            .with_context(|| format!("opening `{}`", source.display()))?,
                    )?;
                } else if scan::is_file(entry.header().entry_type()) {
                    self.place(&root, &name, entry)?;
                }
                Ok(())
            })?;
        }
        for (name, bytes) in &self.made {
            self.place(&root, name, bytes.as_slice())?;
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

    /// Writes one file with the mode and the contents in the listing.
    fn place(&self, root: &Path, name: &str, data: impl Read) -> Result<()> {
        let Some(Kind::File {
            sha256, executable, ..
        }) = self.listing.get(name)
        else {
            bail!("entry `{name}` is new since the package was opened");
        };
        let path = prepare(root, name)?;
        let mut file =
            File::create_new(&path).with_context(|| format!("creating `{}`", path.display()))?;
        let (_, written) =
            scan::digest(data, |bytes| file.write_all(bytes)).map_err(|e| match e.kind() {
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
}

fn prepare(root: &Path, name: &str) -> Result<PathBuf> {
    let path = root.join(name);
    let folder = path.parent().unwrap_or(root);
    fs::create_dir_all(folder).with_context(|| format!("creating `{}`", folder.display()))?;
    Ok(path)
}

/// Fails before the first write if `size` bytes and [`SPARE`] do not fit.
fn room(folder: &Path, size: u64) -> Result<()> {
    let info = nix::sys::statvfs::statvfs(folder)
        .with_context(|| format!("reading the free space of `{}`", folder.display()))?;
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
