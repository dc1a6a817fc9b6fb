//! Results that are slow to make, kept under the digest of what they were made from.
//!
//! An entry is either whole or absent: it is made under another name, synced, and renamed. Nothing here
//! knows what the entries are.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

/// Overrides where the cache lies.
pub const ENVIRONMENT: &str = "FIRSTLIGHT_CACHE";

/// The digest of everything an entry depends on, built from labelled parts.
#[derive(Debug, Clone, Default)]
pub struct Key(Sha256);

impl Key {
    /// A key for one kind of recipe; raise `revision` when the recipe itself changes.
    pub fn new(recipe: &str, revision: u32) -> Self {
        Self::default().with(recipe, revision.to_string())
    }

    /// Adds one input. Lengths are hashed too, so that no two lists of inputs run into one another.
    pub fn with(mut self, label: &str, value: impl AsRef<[u8]>) -> Self {
        for part in [label.as_bytes(), value.as_ref()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// 128 bits of the digest, as names of entries have it.
    pub fn hex(&self) -> String {
        hex(&self.0.clone().finalize())[..32].to_owned()
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$FIRSTLIGHT_CACHE`, else `/var/cache/firstlight` for root, else `~/.cache/firstlight`.
    pub fn open() -> Result<Self> {
        let root = match std::env::var_os(ENVIRONMENT) {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ if nix::unistd::geteuid().is_root() => PathBuf::from("/var/cache/firstlight"),
            _ => {
                let home = std::env::var_os("HOME")
                    .context("no HOME; set FIRSTLIGHT_CACHE to a folder")?;
                Path::new(&home).join(".cache/firstlight")
            }
        };
        Self::at(root)
    }

    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        for dir in ["making", "locks"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).with_context(|| {
                format!(
                    "creating the cache folder `{}` (set {ENVIRONMENT} to another)",
                    dir.display()
                )
            })?;
        }
        Ok(Self { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The entry of `kind` under `key`, if it is there.
    pub fn get(&self, kind: &str, key: &Key) -> Option<PathBuf> {
        let entry = self.path(kind, key);
        entry.exists().then_some(entry)
    }

    /// The entry of `kind` under `key`; where absent, `make` is called with a path at which to create it
    /// (a file or a folder). Two processes that want the same entry make it once; whatever an interrupted
    /// one left behind is removed first.
    pub fn ensure(
        &self,
        kind: &str,
        key: &Key,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let entry = self.path(kind, key);
        if entry.exists() {
            return Ok(entry);
        }
        let name = format!("{kind}-{}", key.hex());
        let lock_path = self.root.join("locks").join(&name);
        let lock = File::create(&lock_path)
            .with_context(|| format!("creating `{}`", lock_path.display()))?;
        lock.lock()
            .with_context(|| format!("locking `{}`", lock_path.display()))?;
        if entry.exists() {
            return Ok(entry);
        }
        let making = self.root.join("making").join(&name);
        remove(&making)?;
        make(&making)?;
        publish(&making, &entry)?;
        Ok(entry)
    }

    fn path(&self, kind: &str, key: &Key) -> PathBuf {
        self.root.join(kind).join(key.hex())
    }
}

/// Gives `making` its final name, after everything in it has reached the disk.
fn publish(making: &Path, entry: &Path) -> Result<()> {
    let parent = entry.parent().context("cache entry without a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("creating `{}`", parent.display()))?;
    let opened = File::open(making).with_context(|| format!("opening `{}`", making.display()))?;
    nix::unistd::syncfs(&opened).with_context(|| format!("syncing `{}`", making.display()))?;
    fs::rename(making, entry).with_context(|| format!("publishing `{}`", entry.display()))?;
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("syncing `{}`", parent.display()))
}

fn remove(path: &Path) -> Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    gone.with_context(|| format!("removing the unfinished `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn an_entry_is_made_once() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let cache = Cache::at(dir.path())?;
        let key = Key::new("test", 1);
        let first = cache.ensure("kind", &key, |at| Ok(fs::write(at, "made")?))?;
        let again = cache.ensure("kind", &key, |_| bail!("made twice"))?;
        assert_eq!(first, again);
        assert_eq!(fs::read_to_string(again)?, "made");
        Ok(())
    }

    #[test]
    fn a_failed_making_leaves_no_entry_and_the_next_starts_clean() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let cache = Cache::at(dir.path())?;
        let key = Key::new("test", 1);
        let failed = cache.ensure("kind", &key, |at| {
            fs::create_dir(at)?;
            fs::write(at.join("half"), "")?;
            bail!("cut")
        });
        assert!(failed.is_err() && cache.get("kind", &key).is_none());
        let made = cache.ensure("kind", &key, |at| {
            assert!(!at.exists(), "the unfinished entry is still there");
            Ok(fs::create_dir(at)?)
        })?;
        assert_eq!(fs::read_dir(made)?.count(), 0);
        Ok(())
    }

    #[test]
    fn keys_tell_their_inputs_apart() {
        let keys = [
            Key::new("a", 1),
            Key::new("a", 2),
            Key::new("a", 1).with("x", "yz"),
            Key::new("a", 1).with("xy", "z"),
        ]
        .map(|k| k.hex());
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "{keys:?}");
        }
    }
}
