//! Adds the entries of tar files: later entries replace earlier ones as on a file system that
//! containerd unpacks to. An entry that it could not unpack is an error.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use build_tools::debian_tree::SOURCE_DATE_EPOCH;

use super::reader::{RawEntry, Reader, field, shown};
use super::{Archive, Content, Data, Entry};

/// overlayfs's mark of a directory that hides those of lower layers.
const OPAQUE: &str = "trusted.overlay.opaque";

/// Major and minor number of the devices that reach no hardware and no other process: null, zero,
/// full, random, urandom and tty. A whiteout has the first.
const HARMLESS: [(u32, u32); 7] = [(0, 0), (1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)];

/// Where an entry of a tar archive goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    At(String),
    /// A file of a lower layer that this layer deletes.
    Whiteout(String),
    /// A directory that hides the lower layers.
    Opaque(String),
}

/// What later entries of the same archive must know.
#[derive(Debug, Default)]
struct Unpacking {
    /// Files with hard links: a file that replaces one would change its links too.
    linked: BTreeSet<String>,
    /// Whiteouts of this archive.
    whiteouts: BTreeSet<String>,
}

impl Archive {
    /// Adds the entries of an uncompressed tar file where `place` puts them; `None` skips an entry.
    /// [`write`](Self::write) reads the contents.
    pub fn add_tar(
        &mut self,
        file: &Arc<File>,
        place: impl Fn(&str) -> Option<Placed>,
    ) -> Result<()> {
        let mut reader = Reader::new(file)?;
        let mut state = Unpacking::default();
        while let Some(raw) = reader.next_entry().context("reading a tar archive")? {
            let doing = || format!("unpacking {}", shown(&raw.path));
            let path = clean(&raw.path).with_context(doing)?;
            if path.is_empty() {
                continue;
            }
            let Some(placed) = place(&path) else { continue };
            match placed {
                Placed::At(at) => self.unpack(&mut state, &at, &raw, file, &place),
                Placed::Whiteout(at) => self.whiteout(&mut state, &at),
                Placed::Opaque(at) => self.opaque(&mut state, &at),
            }
            .with_context(doing)?;
        }
        Ok(())
    }

    fn unpack(
        &mut self,
        state: &mut Unpacking,
        at: &str,
        raw: &RawEntry,
        file: &Arc<File>,
        place: &impl Fn(&str) -> Option<Placed>,
    ) -> Result<()> {
        let mut entry = read_entry(raw, file)?;
        if let Content::Hardlink(target) = &entry.content {
            let Some(Placed::At(target)) = place(target) else {
                bail!("it is a hard link to `{target}`, which the image does not have");
            };
            ensure!(
                target != at,
                "it is a hard link to itself, which no file system has"
            );
            entry.content = self.link(state, &target)?;
        }
        self.parents(state, at)?;
        self.replace(state, at, entry)
    }

    /// Leaves out the device nodes of the container image at `folder` that reach hardware. Below
    /// `/dev` they are invisible, because every container has a `/dev` of its own; elsewhere they are
    /// an error.
    pub fn drop_devices(&mut self, folder: &str) -> Result<()> {
        let below = format!("{folder}/");
        let devices: Vec<String> = self
            .entries
            .range(below.clone()..)
            .take_while(|(path, _)| path.starts_with(&below))
            .filter(|(_, entry)| match entry.content {
                Content::CharDevice(major, minor) => !HARMLESS.contains(&(major, minor)),
                Content::BlockDevice(..) => true,
                _ => false,
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in devices {
            let inside = &path[below.len()..];
            ensure!(
                inside.starts_with("dev/"),
                "`{inside}` is a device node of this machine's hardware; build the image without it"
            );
            self.entries.remove(&path);
        }
        Ok(())
    }

    /// What a hard link to `target` is. Only files of the same archive can have one.
    fn link(&self, state: &mut Unpacking, target: &str) -> Result<Content> {
        let first = match self.entries.get(target).map(|entry| &entry.content) {
            Some(Content::File(_)) => target.to_owned(),
            // All names of one file are links to the first one, which is written first.
            Some(Content::Hardlink(first)) => first.clone(),
            Some(Content::Symlink(text)) => return Ok(Content::Symlink(text.clone())),
            Some(_) => bail!("it is a hard link to `{target}`, which is not a file"),
            None => bail!("it is a hard link to `{target}`, which the archive does not have"),
        };
        state.linked.insert(first.clone());
        Ok(Content::Hardlink(first))
    }

    /// Makes missing parent directories. One that is something else is an error.
    fn parents(&mut self, state: &mut Unpacking, at: &str) -> Result<()> {
        for (end, _) in at.match_indices('/') {
            let parent = &at[..end];
            match self.entries.get(parent).map(|entry| &entry.content) {
                Some(Content::Directory) => {}
                None => self.directory(parent, 0o755),
                Some(_) if state.whiteouts.remove(parent) => self.hide(parent),
                Some(Content::Symlink(_)) => {
                    bail!("its folder `{parent}` is a symbolic link of the same archive")
                }
                Some(_) => bail!("its folder `{parent}` is a file of the same archive"),
            }
        }
        Ok(())
    }

    /// Puts `entry` in the place of what is there. A directory keeps what is in it.
    fn replace(&mut self, state: &mut Unpacking, at: &str, mut entry: Entry) -> Result<()> {
        ensure!(
            !state.linked.contains(at),
            "it replaces a file with hard links in the same archive"
        );
        let directory = matches!(entry.content, Content::Directory);
        let whiteout = state.whiteouts.remove(at);
        match self.entries.get(at) {
            Some(before) if matches!(before.content, Content::Directory) => {
                let is_opaque = |(name, _): &&(String, Vec<u8>)| name == OPAQUE;
                if directory {
                    entry
                        .xattrs
                        .extend(before.xattrs.iter().find(is_opaque).cloned());
                } else {
                    self.remove_below(state, at)?;
                }
            }
            // The new directory has nothing of the deleted one of a lower layer.
            Some(_) if whiteout && directory => entry.xattrs.push(opaque()),
            _ => {}
        }
        self.entries.insert(at.to_owned(), entry);
        Ok(())
    }

    fn remove_below(&mut self, state: &Unpacking, at: &str) -> Result<()> {
        let below = format!("{at}/");
        let linked = state.linked.range(below.clone()..).next();
        ensure!(
            linked.is_none_or(|path| !path.starts_with(&below)),
            "it replaces a folder with files that have hard links in the same archive"
        );
        let gone: Vec<String> = self
            .entries
            .range(below.clone()..)
            .map(|(path, _)| path.clone())
            .take_while(|path| path.starts_with(&below))
            .collect();
        for path in gone {
            self.entries.remove(&path);
        }
        Ok(())
    }

    /// A whiteout hides what lower layers have. What this archive has at its place stays.
    fn whiteout(&mut self, state: &mut Unpacking, at: &str) -> Result<()> {
        let name = at.rsplit('/').next().unwrap_or(at);
        ensure!(
            !matches!(name, "" | "." | ".."),
            "it is a whiteout of no file: behind `.wh.` must be a name"
        );
        self.parents(state, at)?;
        match self.entries.get(at).map(|entry| &entry.content) {
            None => {
                let entry = Entry::new(Content::CharDevice(0, 0), 0o600);
                self.entries.insert(at.to_owned(), entry);
                state.whiteouts.insert(at.to_owned());
            }
            Some(Content::Directory) => self.hide(at),
            Some(_) => {}
        }
        Ok(())
    }

    fn opaque(&mut self, state: &mut Unpacking, at: &str) -> Result<()> {
        self.parents(state, &format!("{at}/"))?;
        self.hide(at);
        Ok(())
    }

    /// Makes `at` a directory that hides those of lower layers.
    fn hide(&mut self, at: &str) {
        let new = || Entry::new(Content::Directory, 0o755);
        let entry = self.entries.entry(at.to_owned()).or_insert_with(new);
        if !matches!(entry.content, Content::Directory) {
            *entry = new();
        }
        if !entry.xattrs.iter().any(|(name, _)| name == OPAQUE) {
            entry.xattrs.push(opaque());
        }
    }
}

fn opaque() -> (String, Vec<u8>) {
    (OPAQUE.to_owned(), b"y".to_vec())
}

/// A relative path without `.` parts. A path that leads out of the archive is an error.
fn clean(path: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(path).context("its path is not UTF-8")?;
    ensure!(
        !text.contains(char::is_control),
        "its path has a control character, with which no tool can name it"
    );
    let parts: Vec<&str> = text
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    ensure!(!parts.contains(&".."), "its path leads out of the archive");
    Ok(parts.join("/"))
}

fn read_entry(raw: &RawEntry, file: &Arc<File>) -> Result<Entry> {
    let header = &raw.header;
    let link = || -> Result<&[u8]> { raw.link.as_deref().context("it is a link without target") };
    let device = || -> Result<(u32, u32)> {
        Ok((
            field(header.device_major(), "its device has no number")?.unwrap_or(0),
            field(header.device_minor(), "its device has no number")?.unwrap_or(0),
        ))
    };
    let content = match raw.kind {
        tar::EntryType::Directory => Content::Directory,
        tar::EntryType::Regular | tar::EntryType::Continuous => Content::File(Data::Slice {
            file: Arc::clone(file),
            offset: raw.offset,
            len: raw.size,
        }),
        tar::EntryType::Symlink => Content::Symlink(target(link()?)?),
        tar::EntryType::Link => {
            Content::Hardlink(clean(link()?).context("reading the target of its hard link")?)
        }
        tar::EntryType::Char => {
            let (major, minor) = device()?;
            Content::CharDevice(major, minor)
        }
        tar::EntryType::Block => {
            let (major, minor) = device()?;
            Content::BlockDevice(major, minor)
        }
        tar::EntryType::Fifo => Content::Fifo,
        tar::EntryType::GNUSparse => {
            bail!("it is a sparse file, which imagegen does not unpack; write it without holes")
        }
        other => bail!("a root file system cannot have an entry of type {other:?}"),
    };
    let overlay = raw
        .xattrs
        .iter()
        .find(|(name, _)| name.starts_with("trusted.overlay."));
    if let Some((name, _)) = overlay {
        bail!("it has the attribute `{name}`, which only the kernel's overlayfs may set");
    }
    Ok(Entry {
        content,
        mode: field(header.mode(), "it has no mode")? & 0o7777,
        uid: raw.uid,
        gid: raw.gid,
        // A later date is that of the build.
        mtime: field(header.mtime(), "it has no date")?.min(SOURCE_DATE_EPOCH),
        xattrs: raw.xattrs.clone(),
    })
}

/// The target of a symbolic link: any text, as on a file system.
fn target(bytes: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(bytes).context("the target of its link is not UTF-8")?;
    ensure!(
        !text.is_empty() && !text.contains(char::is_control),
        "the target of its link is empty or has a control character"
    );
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
