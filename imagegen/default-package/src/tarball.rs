//! Tar archives whose bytes depend on nothing but names and contents: no dates, no owners, sorted.
//!
//! Does not compress, and does not read.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use tar::{Builder, EntryType, Header};

/// One thing that an archive or an image layer holds.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Folder {
        mode: u32,
    },
    /// A copy of a file of this machine.
    Copy {
        from: std::path::PathBuf,
        mode: u32,
    },
    Bytes {
        bytes: Vec<u8>,
        mode: u32,
    },
    Link {
        to: String,
    },
}

pub(crate) struct Tarball<W: Write>(Builder<W>);

impl<W: Write> Tarball<W> {
    pub(crate) fn new(out: W) -> Self {
        Self(Builder::new(out))
    }

    pub(crate) fn add(&mut self, name: &str, item: &Item) -> Result<()> {
        match item {
            Item::Folder { mode } => {
                let mut header = header(EntryType::Directory, *mode, 0);
                self.0
                    .append_data(&mut header, format!("{name}/"), std::io::empty())?;
            }
            Item::Copy { from, mode } => {
                let file =
                    File::open(from).with_context(|| format!("opening `{}`", from.display()))?;
                let size = file.metadata()?.len();
                self.file(name, *mode, size, file)?;
            }
            Item::Bytes { bytes, mode } => {
                self.file(name, *mode, bytes.len() as u64, bytes.as_slice())?;
            }
            Item::Link { to } => {
                let mut header = header(EntryType::Symlink, 0o777, 0);
                self.0.append_link(&mut header, name, to)?;
            }
        }
        Ok(())
    }

    /// Adds a file of `size` bytes; a source that is shorter or longer is an error, not a broken
    /// archive.
    pub(crate) fn file(&mut self, name: &str, mode: u32, size: u64, data: impl Read) -> Result<()> {
        let mut header = header(EntryType::Regular, mode, size);
        let mut data = Counted {
            inner: data.take(size),
            read: 0,
        };
        self.0
            .append_data(&mut header, name, &mut data)
            .with_context(|| format!("adding `{name}`"))?;
        anyhow::ensure!(
            data.read == size,
            "adding `{name}`: it became shorter while it was read"
        );
        Ok(())
    }

    /// Adds a folder of this machine and all below it, under `name`, sorted.
    pub(crate) fn tree(&mut self, folder: &Path, name: &str) -> Result<()> {
        let mut entries = fs::read_dir(folder)
            .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            .with_context(|| format!("reading `{}`", folder.display()))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let below = entry.file_name();
            let below = below
                .to_str()
                .with_context(|| format!("`{}` is not UTF-8", path.display()))?;
            let below = if name.is_empty() {
                below.to_owned()
            } else {
                format!("{name}/{below}")
            };
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.add(&below, &Item::Folder { mode: 0o755 })?;
                self.tree(&path, &below)?;
            } else if kind.is_symlink() {
                let to = fs::read_link(&path)?.display().to_string();
                self.add(&below, &Item::Link { to })?;
            } else {
                use std::os::unix::fs::PermissionsExt as _;
                let executable = entry.metadata()?.permissions().mode() & 0o111 != 0;
                let mode = if executable { 0o755 } else { 0o644 };
                self.add(&below, &Item::Copy { from: path, mode })?;
            }
        }
        Ok(())
    }

    /// Writes the end of the archive and gives the writer back.
    pub(crate) fn finish(self) -> Result<W> {
        Ok(self.0.into_inner()?)
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

struct Counted<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read += n as u64;
        Ok(n)
    }
}
