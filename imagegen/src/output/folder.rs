//! An output folder: ownership, lock, and cleanup after an interrupted run.

use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::change::Change;
use super::manifest::{self, Manifest};

/// The folder for incomplete results. It also marks an output folder of imagegen.
pub(super) const STAGING: &str = ".firstlight-staging";

/// The suffix of a folder that waits in the staging folder while its successor takes its name, on
/// file systems without exchange.
pub(super) const BACKUP: &str = ".aside";

/// A locked output folder.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    created: bool,
    /// One run at a time; unlocked on drop.
    _lock: File,
}

impl Folder {
    /// Opens or creates `root`. A folder with other contents than an output of imagegen is an
    /// error.
    pub fn open(root: &Path) -> Result<Self> {
        let created = match fs::create_dir(root) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("creating the output folder `{}`", root.display()));
            }
        };
        let opened = File::open(root).with_context(|| format!("opening `{}`", root.display()))?;
        let meta = opened
            .metadata()
            .with_context(|| format!("opening `{}`", root.display()))?;
        if !meta.is_dir() {
            bail!(
                "`{}` is not a folder; give another with --output",
                root.display()
            );
        }
        own(root, &meta)?;
        let lock = opened;
        if let Err(error) = lock.try_lock() {
            bail!(
                "`{}` is in use by another imagegen ({error}); wait until it ends",
                root.display()
            );
        }
        let staging = root.join(STAGING);
        let is_staging = fs::symlink_metadata(&staging).is_ok_and(|meta| meta.is_dir());
        let is_owned = Manifest::read(root)?.is_some() || is_staging;
        if !is_owned
            && fs::read_dir(root)
                .with_context(|| format!("reading `{}`", root.display()))?
                .next()
                .is_some()
        {
            bail!(
                "`{}` is not empty and has no `{}`: not an output folder of imagegen; \
                 give another with --output, or empty it",
                root.display(),
                manifest::FILE
            );
        }
        restore(root)?;
        remove(&staging)?;
        Ok(Self {
            root: root.to_owned(),
            created,
            _lock: lock,
        })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Begins a change. Without [`commit`](Change::commit) it leaves nothing behind.
    pub fn change(&self) -> Result<Change<'_>> {
        let staging = self.root.join(STAGING);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&staging)
            .with_context(|| format!("creating `{}`", staging.display()))?;
        Ok(Change::new(&self.root, staging))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.created {
            // Fails, as intended, if the folder has any result.
            drop(fs::remove_dir(&self.root));
        }
    }
}

/// Fails if another user can change what is in the folder: imagegen would write its keys for them,
/// or through their links.
fn own(root: &Path, meta: &Metadata) -> Result<()> {
    let user = nix::unistd::geteuid();
    if meta.uid() != user.as_raw() {
        bail!(
            "`{}` belongs to user {}, but imagegen runs as user {user}; run it as the owner, give \
             another folder with --output, or change the owner: chown -R {user} {}",
            root.display(),
            meta.uid(),
            root.display()
        );
    }
    if meta.mode() & 0o002 != 0 {
        bail!(
            "every user can write to `{}`; run: chmod o-w {}",
            root.display(),
            root.display()
        );
    }
    Ok(())
}

/// Moves a backup to its place if a run was killed before it could publish the successor.
fn restore(root: &Path) -> Result<()> {
    let staging = root.join(STAGING);
    if staging.is_symlink() {
        return Ok(());
    }
    let Ok(entries) = fs::read_dir(&staging) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(BACKUP)) else {
            continue;
        };
        let place = root.join(name);
        if fs::symlink_metadata(&place).is_err() {
            fs::rename(entry.path(), &place)
                .with_context(|| format!("restoring `{}`", place.display()))?;
        }
    }
    Ok(())
}

pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing the unfinished `{}`", path.display()))
        }
        _ => Ok(()),
    }
}
