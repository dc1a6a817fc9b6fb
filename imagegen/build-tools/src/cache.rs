//! Results that are slow to make, kept under the digest of what they were made from.
//!
//! An entry is either whole or absent: it is made under another name, synced, and renamed. Nothing here
//! knows what the entries are.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};
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
        let making = self.unfinished(&name)?;
        make(&making)?;
        publish(&making, &entry)?;
        Ok(entry)
    }

    /// A new path for making `name`; those of interrupted runs are removed. Each process has its own:
    /// programs of a killed run may write to theirs for a moment.
    fn unfinished(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join("making");
        let making = folder.join(format!("{name}.{}", std::process::id()));
        let doing = || format!("reading `{}`", folder.display());
        for left in fs::read_dir(&folder).with_context(doing)? {
            let left = left.with_context(doing)?;
            let left_name = left.file_name();
            let rest = left_name.to_str().and_then(|left| left.strip_prefix(name));
            if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
                continue;
            }
            match remove(&left.path()) {
                Err(error) if left.path() != making => {
                    log::warn!("{error:#}; the next run tries again");
                }
                removed => removed?,
            }
        }
        Ok(making)
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
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(meta) if meta.is_dir() => {
            detach_mounts(path)?;
            fs::remove_dir_all(path)
        }
        Ok(_) => fs::remove_file(path),
    };
    gone.with_context(|| format!("removing the unfinished `{}`", path.display()))
}

/// Takes away what is mounted in a folder: a Debian tree whose making was interrupted has `/dev`, `/proc` and `/sys`, and
/// what is in those is the host's.
fn detach_mounts(folder: &Path) -> Result<()> {
    let folder = folder
        .canonicalize()
        .with_context(|| format!("resolving `{}`", folder.display()))?;
    let list = "/proc/self/mountinfo";
    let mounts = fs::read_to_string(list).with_context(|| format!("reading `{list}`"))?;
    let points = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape);
    let inside: Vec<_> = points.filter(|point| point.starts_with(&folder)).collect();
    // The last mounted first.
    for point in inside.iter().rev() {
        umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).with_context(|| {
            let point = point.display();
            format!("unmounting `{point}`, left by an interrupted run; do so by hand, as root")
        })?;
    }
    Ok(())
}

/// Of the kernel's lists of mounts, in which a space is `\040`.
fn unescape(text: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let code =
            octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = &after[if code.is_some() { 3 } else { 0 }..];
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use anyhow::bail;
    use nix::mount::{MsFlags, mount};

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
    fn another_process_makes_an_entry_elsewhere() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let cache = Cache::at(dir.path())?;
        let key = Key::new("test", 1);
        let other = dir.path().join(format!("making/kind-{}.1", key.hex()));
        let unrelated = dir.path().join("making/kind-x.1");
        fs::create_dir(&other)?;
        fs::create_dir(&unrelated)?;
        cache.ensure("kind", &key, |at| {
            assert!(
                at != other && !other.exists(),
                "the interrupted one is left"
            );
            Ok(fs::write(at, "made")?)
        })?;
        assert!(unrelated.exists());
        Ok(())
    }

    #[test]
    fn what_is_mounted_in_an_unfinished_entry_survives_cleanup() -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return Ok(());
        }
        let (dir, host) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let kept = host.path().join("kept");
        fs::write(&kept, "")?;
        let cache = Cache::at(dir.path().join("with a space"))?;
        let key = Key::new("test", 1);
        let cut = cache.ensure("kind", &key, |at| {
            // One in another, as `/dev/pts` is in `/dev`.
            for point in [at.join("dev"), at.join("dev/sub")] {
                fs::create_dir_all(&point)?;
                let none = None::<&str>;
                mount(Some(host.path()), &point, none, MsFlags::MS_BIND, none)?;
            }
            bail!("cut")
        });
        assert!(cut.is_err());
        cache.ensure("kind", &key, |at| Ok(fs::write(at, "made")?))?;
        assert!(kept.exists(), "the host's file was removed");
        Ok(())
    }

    #[test]
    fn a_mount_point_with_odd_letters_is_found() {
        assert_eq!(unescape(r"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape(r"/odd\4"), Path::new(r"/odd\4"));
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
