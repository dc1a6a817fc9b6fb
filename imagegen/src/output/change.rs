//! Results on their way into an output folder.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::folder::{BACKUP, remove};
use super::tree::{Tree, is_same, write};

/// The staged results of one run.
#[derive(Debug)]
pub struct Change<'a> {
    root: &'a Path,
    staging: PathBuf,
    trees: Vec<String>,
    files: Vec<String>,
    removed: Vec<String>,
}

impl<'a> Change<'a> {
    /// `staging` is an empty folder inside the output folder `root`.
    pub(super) fn new(root: &'a Path, staging: PathBuf) -> Self {
        Self {
            root,
            staging,
            trees: Vec::new(),
            files: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// Begins the next state of the folder `name`.
    pub fn tree(&self, name: &str, mode: u32) -> Result<Tree> {
        Tree::begin(name, mode, self.staging.join(name), self.root.join(name))
    }

    /// Stages a tree and returns whether it differs from the current one. `is_owned` says which
    /// files the new state drops; others in the folder stay.
    pub fn add_tree(&mut self, tree: Tree, is_owned: impl Fn(&Path) -> bool) -> Result<bool> {
        let name = tree.name.clone();
        let changed = tree.finish(is_owned)?;
        if changed {
            self.trees.push(name);
        }
        Ok(changed)
    }

    /// Stages a file at the top of the folder and returns whether it differs from the current one.
    pub fn add_file(&mut self, name: &str, bytes: &[u8], mode: u32) -> Result<bool> {
        let changed = !is_same(self.root, Path::new(name), bytes, mode)?;
        if changed {
            write(&self.staging.join(name), bytes, mode)?;
            self.files.push(name.to_owned());
        }
        Ok(changed)
    }

    /// Stages the file `name`, which the caller creates at the returned path before the commit.
    pub fn add_large_file(&mut self, name: &str) -> PathBuf {
        self.files.push(name.to_owned());
        self.staging.join(name)
    }

    /// Stages the folder `name`, which the caller fills at the returned path before the commit. It
    /// replaces the current one.
    pub fn add_large_folder(&mut self, name: &str, mode: u32) -> Result<PathBuf> {
        let staged = self.staging.join(name);
        super::tree::make_dir(&staged, mode)?;
        self.trees.push(name.to_owned());
        Ok(staged)
    }

    /// Removes the file `name` at the top of the folder.
    pub fn remove_file(&mut self, name: &str) {
        self.removed.push(name.to_owned());
    }

    /// A folder on the same file system for intermediate files. It ends with the change. Its name
    /// is new: a program that a killed run leaves for a moment cannot write to it.
    pub fn work_dir(&self) -> Result<PathBuf> {
        let work = tempfile::Builder::new()
            .prefix(".work-")
            .tempdir_in(&self.staging)
            .map(tempfile::TempDir::keep)
            .with_context(|| format!("creating a folder in `{}`", self.staging.display()))?;
        // As the user wrote it: the crate makes the path absolute.
        Ok(self.staging.join(work.file_name().unwrap_or_default()))
    }

    pub fn is_empty(&self) -> bool {
        self.trees.is_empty() && self.files.is_empty() && self.removed.is_empty()
    }

    /// Publishes everything in the order in which it was staged, trees before files.
    pub fn commit(self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let root = self.root;
        let opened = File::open(&self.staging)
            .with_context(|| format!("opening `{}`", self.staging.display()))?;
        nix::unistd::syncfs(&opened)
            .with_context(|| format!("syncing `{}`", self.staging.display()))?;
        for name in &self.removed {
            remove_file(&root.join(name))?;
        }
        for name in &self.trees {
            exchange(&self.staging.join(name), &root.join(name))?;
        }
        for name in &self.files {
            fs::rename(self.staging.join(name), root.join(name))
                .with_context(|| format!("publishing `{}`", root.join(name).display()))?;
        }
        File::open(root)
            .and_then(|dir| dir.sync_all())
            .with_context(|| format!("syncing `{}`", root.display()))
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.staging) {
            log::warn!("{error:#}; the next run removes it");
        }
    }
}

/// Exchanges the names of `new` and `current`; `current` may be missing.
fn exchange(new: &Path, current: &Path) -> Result<()> {
    let doing = || format!("publishing `{}`", current.display());
    if fs::symlink_metadata(current).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return fs::rename(new, current).with_context(doing);
    }
    match renameat2(
        AT_FDCWD,
        new,
        AT_FDCWD,
        current,
        RenameFlags::RENAME_EXCHANGE,
    ) {
        // NFS and some FUSE file systems have no exchange. `folder::restore` repairs a kill between
        // the two renames.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            let mut backup = new.as_os_str().to_owned();
            backup.push(BACKUP);
            fs::rename(current, &backup).with_context(doing)?;
            fs::rename(new, current).with_context(doing)
        }
        result => result.with_context(doing),
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing `{}`", path.display()))
        }
        _ => Ok(()),
    }
}
