//! The output folder: results appear whole or not at all, and only in a folder that is ours.
//!
//! Everything is written into a staging folder inside it, synced, and then moved to its place in one step each:
//! a folder by exchange, a file by rename. Killed at any moment, what is there is complete, and the next run
//! clears the staging away. What the results are is not known here.

mod tree;

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use self::tree::{Tree, is_same, make_dir, write};
use crate::manifest::{self, Manifest};

/// Where results lie until they are complete. Its being there also marks a folder as ours.
const STAGING: &str = ".firstlight-staging";

/// Set aside while its successor takes its name, where the file system cannot exchange the two.
const ASIDE: &str = ".aside";

/// An output folder, locked.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    created: bool,
    /// Held until dropped; one run at a time.
    _lock: File,
}

impl Folder {
    /// Opens or makes `root`. Refused when it holds something and was not made by us.
    pub fn open(root: &Path) -> Result<Self> {
        let created = match fs::create_dir(root) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("creating the output folder `{}`", root.display()));
            }
        };
        if !root.is_dir() {
            bail!(
                "`{}` is not a folder; give another with --output",
                root.display()
            );
        }
        let lock = File::open(root).with_context(|| format!("opening `{}`", root.display()))?;
        if let Err(error) = lock.try_lock() {
            bail!(
                "`{}` is in use by another imagegen ({error}); wait for it to end",
                root.display()
            );
        }
        let staging = root.join(STAGING);
        let ours = Manifest::read(root)?.is_some() || staging.is_dir();
        if !ours
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

    /// Begins a change. Dropped without [`commit`](Change::commit), it leaves nothing behind.
    pub fn change(&self) -> Result<Change<'_>> {
        let staging = self.root.join(STAGING);
        fs::create_dir(&staging).with_context(|| format!("creating `{}`", staging.display()))?;
        Ok(Change {
            folder: self,
            staging,
            trees: Vec::new(),
            files: Vec::new(),
            gone: Vec::new(),
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.created {
            // Succeeds only where nothing was put into it.
            drop(fs::remove_dir(&self.root));
        }
    }
}

/// Results on their way into a folder.
#[derive(Debug)]
pub struct Change<'a> {
    folder: &'a Folder,
    staging: PathBuf,
    trees: Vec<String>,
    files: Vec<String>,
    gone: Vec<String>,
}

impl Change<'_> {
    /// Begins the next state of the folder `name`, and all that is below it.
    pub fn tree(&self, name: &str, mode: u32) -> Result<Tree> {
        Tree::begin(
            name,
            mode,
            self.staging.join(name),
            self.folder.root.join(name),
        )
    }

    /// Takes a tree in; whether it differs from what is there.
    pub fn take(&mut self, tree: Tree, ours: impl Fn(&Path) -> bool) -> Result<bool> {
        let name = tree.name.clone();
        let changed = tree.finish(ours)?;
        if changed {
            self.trees.push(name);
        }
        Ok(changed)
    }

    /// Takes one file at the top of the folder in; whether it differs from what is there.
    pub fn file(&mut self, name: &str, bytes: &[u8], mode: u32) -> Result<bool> {
        let changed = !is_same(&self.folder.root.join(name), bytes, mode)?;
        if changed {
            write(&self.staging.join(name), bytes, mode)?;
            self.files.push(name.to_owned());
        }
        Ok(changed)
    }

    /// A path at which to make the large file `name`, and the promise to take it in.
    pub fn large_file(&mut self, name: &str) -> PathBuf {
        self.files.push(name.to_owned());
        self.staging.join(name)
    }

    /// Takes the file `name` at the top of the folder out.
    pub fn discard(&mut self, name: &str) {
        self.gone.push(name.to_owned());
    }

    /// A folder on the same file system for what is only needed on the way; it goes with the change.
    pub fn work(&self) -> Result<PathBuf> {
        let work = self.staging.join(".work");
        make_dir(&work, 0o700)?;
        Ok(work)
    }

    pub fn is_empty(&self) -> bool {
        self.trees.is_empty() && self.files.is_empty() && self.gone.is_empty()
    }

    /// Puts everything into its place, in the order it was taken in.
    pub fn commit(self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let root = &self.folder.root;
        let opened = File::open(&self.staging)
            .with_context(|| format!("opening `{}`", self.staging.display()))?;
        nix::unistd::syncfs(&opened)
            .with_context(|| format!("syncing `{}`", self.staging.display()))?;
        for name in &self.gone {
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
            log::warn!("{error:#}, leaving it to the next run");
        }
    }
}

/// Gives `new` the name `current`, and what had that name before the name `new`.
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
        // NFS and some user-space file systems cannot; between these two renames a kill is mended by `restore`.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            let mut aside = new.as_os_str().to_owned();
            aside.push(ASIDE);
            fs::rename(current, &aside).with_context(doing)?;
            fs::rename(new, current).with_context(doing)
        }
        result => result.with_context(doing),
    }
}

/// Puts back what a run set aside and was killed before it could put the successor in place.
fn restore(root: &Path) -> Result<()> {
    let staging = root.join(STAGING);
    let Ok(entries) = fs::read_dir(&staging) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(ASIDE)) else {
            continue;
        };
        let place = root.join(name);
        if !place.exists() {
            fs::rename(entry.path(), &place)
                .with_context(|| format!("putting `{}` back", place.display()))?;
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing the unfinished `{}`", path.display()))
        }
        _ => Ok(()),
    }
}
