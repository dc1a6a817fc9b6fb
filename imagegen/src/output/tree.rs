//! The next state of one result folder. Unchanged files keep their inode; files that a person added
//! stay.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::beneath;

/// The next state of one folder.
#[derive(Debug)]
pub struct Tree {
    pub(super) name: String,
    mode: u32,
    staged: PathBuf,
    current: PathBuf,
    /// Unchanged paths, hard-linked once anything else changes.
    unchanged: BTreeSet<PathBuf>,
    written: BTreeSet<PathBuf>,
    changed: bool,
}

impl Tree {
    /// The next state of the folder `current`, written at `staged`.
    pub(super) fn begin(name: &str, mode: u32, staged: PathBuf, current: PathBuf) -> Result<Self> {
        beneath::folder(&current)?;
        make_dir(&staged, mode)?;
        Ok(Self {
            name: name.to_owned(),
            mode,
            staged,
            current,
            unchanged: BTreeSet::new(),
            written: BTreeSet::new(),
            changed: false,
        })
    }

    /// Adds a file.
    pub fn add(&mut self, path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
        if is_same(&self.current, path, bytes, mode)? {
            self.unchanged.insert(path.to_owned());
            return Ok(());
        }
        self.changed = true;
        self.parent(path)?;
        write(&self.staged.join(path), bytes, mode)?;
        self.written.insert(path.to_owned());
        Ok(())
    }

    fn parent(&mut self, path: &Path) -> Result<()> {
        match path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            Some(parent) if !self.written.contains(parent) => {
                make_dir(&self.staged.join(parent), self.mode)?;
                self.written.insert(parent.to_owned());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Links the files that stay: unchanged ones, and all for which `is_owned` is false. Returns
    /// whether the folder changes.
    pub(super) fn finish(mut self, is_owned: impl Fn(&Path) -> bool) -> Result<bool> {
        let mut kept = std::mem::take(&mut self.unchanged);
        for path in walk(&self.current)? {
            if !kept.contains(&path) && !self.written.contains(&path) {
                if is_owned(&path) {
                    self.changed = true;
                } else {
                    kept.insert(path);
                }
            }
        }
        if !self.changed {
            return Ok(false);
        }
        for path in &kept {
            self.parent(path)?;
            let from = self.current.join(path);
            fs::hard_link(&from, self.staged.join(path))
                .with_context(|| format!("linking `{}`", from.display()))?;
        }
        Ok(true)
    }
}

/// Files below `root` as relative paths; none if `root` is missing.
fn walk(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(root.join(&folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound && folder.as_os_str().is_empty() => {
                break;
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("reading `{}`", root.join(&folder).display()));
            }
        };
        for entry in entries {
            let entry =
                entry.with_context(|| format!("reading `{}`", root.join(&folder).display()))?;
            let path = folder.join(entry.file_name());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// Whether the file `path` below `root` has these bytes and this mode.
pub(super) fn is_same(root: &Path, path: &Path, bytes: &[u8], mode: u32) -> Result<bool> {
    let Some(mut file) = beneath::open(root, path)? else {
        return Ok(false);
    };
    let doing = || format!("reading `{}`", root.join(path).display());
    let meta = file.metadata().with_context(doing)?;
    if meta.len() != bytes.len() as u64 || meta.mode() & 0o777 != mode {
        return Ok(false);
    }
    let mut found = Vec::with_capacity(bytes.len());
    file.read_to_end(&mut found).with_context(doing)?;
    Ok(found == bytes)
}

pub(super) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("creating `{}`", path.display()))
}

/// Writes a new file with holes for blocks of zeros: a seed disk is mostly empty.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    const BLOCK: usize = 4096;
    let doing = || format!("writing `{}`", path.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(doing)?;
    // The umask narrows the mode of open().
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
        .with_context(doing)?;
    if bytes.len() < 16 * BLOCK {
        return file.write_all(bytes).with_context(doing);
    }
    file.set_len(bytes.len() as u64).with_context(doing)?;
    for (i, block) in bytes.chunks(BLOCK).enumerate() {
        if block.iter().any(|b| *b != 0) {
            file.write_all_at(block, (i * BLOCK) as u64)
                .with_context(doing)?;
        }
    }
    Ok(())
}
