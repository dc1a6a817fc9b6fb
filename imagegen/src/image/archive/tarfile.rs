//! Reads entries from tar files, and writes them as one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Archive, Content, Data, Entry, SliceReader};
use build_tools::debian_tree::SOURCE_DATE_EPOCH;

/// Where an entry of a tar archive goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    At(String),
    /// A file of a lower layer that this layer deletes.
    Whiteout(String),
    /// A directory that hides the lower layers.
    Opaque(String),
}

impl Archive {
    /// Adds the entries of an uncompressed tar file where `place` puts them; `None` skips an entry.
    /// [`write`](Self::write) reads the contents.
    pub fn add_tar(
        &mut self,
        file: &Arc<File>,
        place: impl Fn(&str) -> Option<Placed>,
    ) -> Result<()> {
        // Starts at 0 instead of the file's position, which several readers share.
        let whole = SliceReader {
            file: file.as_ref(),
            position: 0,
            left: u64::MAX,
        };
        let mut tar = tar::Archive::new(io::BufReader::with_capacity(1 << 16, whole));
        for entry in tar.entries().context("reading a tar archive")? {
            let mut entry = entry.context("reading a tar archive")?;
            let path = clean(&entry.path_bytes())?;
            if path.is_empty() {
                continue;
            }
            let Some(placed) = place(&path) else { continue };
            match placed {
                Placed::At(at) => {
                    let hardlink = entry.header().entry_type().is_hard_link();
                    let mut made = read_entry(&mut entry, file)
                        .with_context(|| format!("reading `{path}`"))?;
                    if let (true, Content::Hardlink(target)) = (hardlink, &made.content) {
                        match place(target) {
                            Some(Placed::At(target)) => made.content = Content::Hardlink(target),
                            _ => bail!(
                                "`{path}` is a hard link to `{target}`, which the image does not \
                                 have"
                            ),
                        }
                    }
                    self.add(&at, made);
                }
                Placed::Whiteout(at) => self.add(&at, Entry::new(Content::CharDevice(0, 0), 0o600)),
                Placed::Opaque(at) => {
                    if !self.entries.contains_key(&at) {
                        self.directory(&at, 0o755);
                    }
                    if let Some(directory) = self.entries.get_mut(&at) {
                        directory
                            .xattrs
                            .push(("trusted.overlay.opaque".to_owned(), b"y".to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes all entries ordered by path, hard links last, after their targets.
    pub fn write(&self, out: impl Write) -> Result<()> {
        let mut tar = tar::Builder::new(out);
        let links = |entry: &Entry| matches!(entry.content, Content::Hardlink(_));
        for later in [false, true] {
            for (path, entry) in self.entries.iter().filter(|(_, e)| links(e) == later) {
                append(&mut tar, path, entry)
                    .with_context(|| format!("writing `{path}` into the root"))?;
            }
        }
        tar.into_inner()
            .and_then(|mut out| out.flush())
            .context("writing the root")
    }
}

/// A relative path without `.` parts. A path that leads out of the archive is an error.
fn clean(path: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(path)
        .with_context(|| format!("`{}` is not a UTF-8 path", String::from_utf8_lossy(path)))?;
    let parts: Vec<&str> = text
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    ensure!(!parts.contains(&".."), "`{text}` leads out of its archive");
    Ok(parts.join("/"))
}

fn read_entry(entry: &mut tar::Entry<'_, impl Read>, file: &Arc<File>) -> Result<Entry> {
    let header = entry.header().clone();
    let link = |entry: &tar::Entry<'_, _>| -> Result<String> {
        let name = entry.link_name_bytes().context("a link has no target")?;
        String::from_utf8(name.into_owned()).context("the target of a link is not UTF-8")
    };
    let device = || -> Result<(u32, u32)> {
        Ok((
            header.device_major()?.unwrap_or(0),
            header.device_minor()?.unwrap_or(0),
        ))
    };
    let content = match header.entry_type() {
        tar::EntryType::Directory => Content::Directory,
        tar::EntryType::Regular | tar::EntryType::Continuous => Content::File(Data::Slice {
            file: Arc::clone(file),
            offset: entry.raw_file_position(),
            len: entry.size(),
        }),
        tar::EntryType::Symlink => Content::Symlink(link(entry)?),
        tar::EntryType::Link => Content::Hardlink(clean(link(entry)?.as_bytes())?),
        tar::EntryType::Char => {
            let (major, minor) = device()?;
            Content::CharDevice(major, minor)
        }
        tar::EntryType::Block => {
            let (major, minor) = device()?;
            Content::BlockDevice(major, minor)
        }
        tar::EntryType::Fifo => Content::Fifo,
        other => bail!("a root file system cannot have an entry of type {other:?}"),
    };
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            if let Some(name) = extension.key()?.strip_prefix("SCHILY.xattr.") {
                xattrs.push((name.to_owned(), extension.value_bytes().to_vec()));
            }
        }
    }
    Ok(Entry {
        content,
        mode: header.mode()? & 0o7777,
        uid: header.uid()?,
        gid: header.gid()?,
        // A later date is that of the build.
        mtime: header.mtime()?.min(SOURCE_DATE_EPOCH),
        xattrs,
    })
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, entry: &Entry) -> Result<()> {
    let mut attributes: Vec<(String, &[u8])> = entry
        .xattrs
        .iter()
        .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice()))
        .collect();
    attributes.sort();
    if !attributes.is_empty() {
        tar.append_pax_extensions(attributes.iter().map(|(n, v)| (n.as_str(), *v)))?;
    }
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.uid);
    header.set_gid(entry.gid);
    header.set_mtime(entry.mtime);
    header.set_size(0);
    match &entry.content {
        Content::File(data) => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(data.len());
            tar.append_data(&mut header, path, data.reader()?.take(data.len()))?;
            return Ok(());
        }
        Content::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, path, target)?;
            return Ok(());
        }
        Content::Hardlink(target) => {
            header.set_entry_type(tar::EntryType::Link);
            tar.append_link(&mut header, path, target)?;
            return Ok(());
        }
        Content::Directory => header.set_entry_type(tar::EntryType::Directory),
        Content::Fifo => header.set_entry_type(tar::EntryType::Fifo),
        Content::CharDevice(major, minor) => {
            header.set_entry_type(tar::EntryType::Char);
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
        }
        Content::BlockDevice(major, minor) => {
            header.set_entry_type(tar::EntryType::Block);
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
        }
    }
    tar.append_data(&mut header, path, io::empty())?;
    Ok(())
}
