//! Files below a root: read, compare, and replace by rename, so that a reader never sees a partial
//! file.
//!
//! Not a file system abstraction: `Root` is a path prefix, as systemd's `--root=`.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Uid};

/// The tree that firstboot works on: `/`, or a directory with `--root`.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

/// Mode and owner of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Attributes {
    /// Owned by root.
    pub fn mode(mode: u32) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
        }
    }
}

/// The desired state of a file.
#[derive(Clone, PartialEq, Eq)]
pub struct DesiredFile {
    /// As seen on the running host.
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    pub attributes: Attributes,
}

/// Without the bytes, which may be a key.
impl std::fmt::Debug for DesiredFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "DesiredFile({}, {} bytes, {:04o})",
            self.path.display(),
            self.bytes.len(),
            self.attributes.mode
        )
    }
}

impl Root {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Whether this is the running machine, not a directory.
    pub fn is_machine(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// `path` inside this root. `path` is absolute, as on the running host; `..` cannot leave the
    /// root.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        let inside = path
            .as_ref()
            .components()
            .filter(|part| matches!(part, Component::Normal(_)));
        let mut joined = self.0.clone();
        joined.extend(inside);
        joined
    }

    /// The file's bytes; `None` if it does not exist.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>> {
        let path = self.join(path);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    || error.kind() == ErrorKind::NotADirectory =>
            {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("reading `{}`", path.display())),
        }
    }

    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.join(path).symlink_metadata().is_ok()
    }

    /// Whether `path` is a plain file with exactly these bytes and attributes.
    ///
    /// In a directory of `--root` the owner is not compared, because preparing one needs no
    /// privileges.
    pub fn holds(
        &self,
        path: impl AsRef<Path>,
        bytes: &[u8],
        attributes: Attributes,
    ) -> Result<bool> {
        let full = self.join(&path);
        let Ok(meta) = full.symlink_metadata() else {
            return Ok(false);
        };
        Ok(meta.is_file()
            && meta.permissions().mode() & 0o7777 == attributes.mode
            && (!self.is_machine() || (meta.uid(), meta.gid()) == (attributes.uid, attributes.gid))
            && meta.len() == bytes.len() as u64
            && self.read(path)?.as_deref() == Some(bytes))
    }

    /// Writes the file unless it is unchanged, as [`Self::write_all`]; returns whether it wrote.
    pub fn write(
        &self,
        path: impl AsRef<Path>,
        bytes: &[u8],
        attributes: Attributes,
    ) -> Result<bool> {
        let file = DesiredFile {
            path: path.as_ref().to_owned(),
            bytes: bytes.to_vec(),
            attributes,
        };
        Ok(!self.write_all(&[file])?.is_empty())
    }

    /// Replaces the file without syncing its folder: a power cut may lose the new version, but
    /// leaves the old one or a complete one.
    pub fn write_volatile(&self, path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
        let file = DesiredFile {
            path: path.as_ref().to_owned(),
            bytes: bytes.to_vec(),
            attributes: Attributes::mode(0o644),
        };
        let temporary = self.temporary(&file.path)?;
        // ext4 allocates blocks late: without this the rename may reach the disk before the bytes,
        // and a power cut leaves an empty file.
        self.write_temporary(&file, &temporary)?.sync_data()?;
        let full = self.join(&file.path);
        fs::rename(&temporary, &full).with_context(|| format!("replacing `{}`", full.display()))
    }

    /// Writes those files that differ, and returns them.
    ///
    /// Each is written to a temporary file that only root may read, gets owner and mode, and is
    /// synced and renamed: readers see the old file or the new one, a power cut leaves one of the
    /// two, and a secret never has the wrong mode. Missing parents get mode 0755. A failure leaves
    /// the old files. Syncs once for all files, because a flush takes milliseconds.
    pub fn write_all<'a>(&self, files: &'a [DesiredFile]) -> Result<Vec<&'a DesiredFile>> {
        let mut written = Vec::new();
        for file in files {
            if !self.holds(&file.path, &file.bytes, file.attributes)? {
                written.push((file, self.temporary(&file.path)?));
            }
        }
        let result = self.write_and_rename(&written);
        if result.is_err() {
            for (_, temporary) in &written {
                let _ = fs::remove_file(temporary);
            }
        }
        result?;
        Ok(written.into_iter().map(|(file, _)| file).collect())
    }

    fn temporary(&self, path: &Path) -> Result<PathBuf> {
        let full = self.join(path);
        let Some((directory, name)) = full.parent().zip(full.file_name()) else {
            bail!("`{}` does not name a file", full.display());
        };
        Ok(directory.join(format!(".{}.firstboot", name.to_string_lossy())))
    }

    fn write_and_rename(&self, files: &[(&DesiredFile, PathBuf)]) -> Result<()> {
        let mut directories = Vec::<&Path>::new();
        for (file, temporary) in files {
            self.write_temporary(file, temporary)
                .with_context(|| format!("writing `{}`", file.path.display()))?;
            let directory = temporary.parent().unwrap_or(Path::new("/"));
            if !directories.contains(&directory) {
                directories.push(directory);
            }
        }
        sync(&directories)?;
        for (file, temporary) in files {
            let full = self.join(&file.path);
            fs::rename(temporary, &full)
                .with_context(|| format!("replacing `{}`", full.display()))?;
        }
        sync(&directories)
    }

    fn write_temporary(&self, desired: &DesiredFile, temporary: &Path) -> Result<File> {
        if let Some(directory) = temporary.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("creating `{}`", directory.display()))?;
        }
        // A power cut may have left one.
        remove_if_exists(temporary)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(temporary)?;
        file.write_all(&desired.bytes)?;
        if self.is_machine() {
            let (uid, gid) = (
                Uid::from_raw(desired.attributes.uid),
                Gid::from_raw(desired.attributes.gid),
            );
            nix::unistd::fchown(&file, Some(uid), Some(gid))?;
        }
        file.set_permissions(fs::Permissions::from_mode(desired.attributes.mode))?;
        Ok(file)
    }

    /// Removes what an interrupted write of the file left. The next write would do so too, but
    /// there may be none.
    pub fn clean_up(&self, path: impl AsRef<Path>) -> Result<()> {
        remove_if_exists(&self.temporary(path.as_ref())?)
    }

    /// Renames a file, durably.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let (from, to) = (self.join(from), self.join(to));
        fs::rename(&from, &to).with_context(|| format!("replacing `{}`", to.display()))?;
        sync(&[to.parent().unwrap_or(&to)])
    }

    /// Makes `path` a symbolic link to `target`, in one rename.
    pub fn write_link(&self, path: impl AsRef<Path>, target: &str) -> Result<()> {
        let path = path.as_ref();
        let (full, temporary) = (self.join(path), self.temporary(path)?);
        let directory = temporary.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory)
            .with_context(|| format!("creating `{}`", directory.display()))?;
        remove_if_exists(&temporary)?;
        std::os::unix::fs::symlink(target, &temporary)
            .and_then(|()| fs::rename(&temporary, &full))
            .with_context(|| format!("linking `{}`", full.display()))?;
        sync(&[directory])
    }

    /// Removes a file if it exists.
    pub fn remove(&self, path: impl AsRef<Path>) -> Result<()> {
        remove_if_exists(&self.join(path))
    }

    /// Removes a directory with its contents if it exists.
    pub fn remove_tree(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = self.join(path);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing `{}`", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Syncs the file system of `directory`, for files that another program wrote.
    pub fn sync(&self, directory: impl AsRef<Path>) -> Result<()> {
        sync(&[&self.join(directory)])
    }

    /// Names in a directory, sorted; empty if it does not exist.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<String>> {
        let path = self.join(path);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("listing `{}`", path.display()));
            }
        };
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<Vec<_>>>()
            .with_context(|| format!("listing `{}`", path.display()))?;
        names.sort();
        Ok(names)
    }
}

fn remove_if_exists(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

/// Syncs the file systems of these directories, each once.
fn sync(directories: &[&Path]) -> Result<()> {
    let mut devices = Vec::new();
    for path in directories {
        let synced = File::open(path).and_then(|directory| {
            let device = directory.metadata()?.dev();
            if !devices.contains(&device) {
                devices.push(device);
                nix::unistd::syncfs(&directory)?;
            }
            Ok(())
        });
        synced.with_context(|| format!("syncing `{}`", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_write_touches_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(
            root.write("/etc/a/b", b"x", Attributes::mode(0o640))
                .unwrap()
        );
        let before = fs::metadata(dir.path().join("etc/a/b")).unwrap();
        assert!(
            !root
                .write("/etc/a/b", b"x", Attributes::mode(0o640))
                .unwrap()
        );
        let after = fs::metadata(dir.path().join("etc/a/b")).unwrap();
        assert_eq!(
            (before.ino(), before.mtime_nsec()),
            (after.ino(), after.mtime_nsec())
        );
        assert_eq!(after.mode() & 0o7777, 0o640);
        assert_eq!(root.list("/etc/a").unwrap(), ["b"]);
    }

    #[test]
    fn changed_mode_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.write("/k", b"x", Attributes::mode(0o644)).unwrap();
        assert!(root.write("/k", b"x", Attributes::mode(0o600)).unwrap());
    }

    #[test]
    fn dots_do_not_leave_the_root() {
        assert_eq!(
            Root::new("/a").join("/../../etc/passwd"),
            Path::new("/a/etc/passwd")
        );
    }
}
