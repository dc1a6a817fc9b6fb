//! Offsets of the entries of an image archive, for random access.
//!
//! A compressed archive is decompressed once, into an unnamed temporary file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use tar::EntryType;

use super::super::{listing, stream};
use super::DESCRIPTION;
use super::describe::Entries;

/// A part of the archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice {
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Slice {
    pub(super) fn reader(self, file: &Arc<File>) -> SliceReader {
        SliceReader {
            file: Arc::clone(file),
            at: self.offset,
            end: self.offset + self.size,
        }
    }
}

#[derive(Debug)]
pub(super) struct SliceReader {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for SliceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let n = self.file.read_at(&mut buffer[..most], self.at)?;
        if n == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        Ok(n)
    }
}

#[derive(Debug)]
pub(super) struct Index {
    pub(super) file: Arc<File>,
    entries: BTreeMap<String, Slice>,
}

impl Index {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let mut start = Vec::new();
        Read::by_ref(&mut file).take(512).read_to_end(&mut start)?;
        file.rewind()?;
        if stream::is_archive(&start) && !stream::is_tar(&start) {
            let folder = path
                .parent()
                .filter(|p| !p.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            let folder = match tempfile::tempfile_in(folder) {
                Ok(_) => folder.to_owned(),
                Err(_) => std::env::temp_dir(),
            };
            let mut plain = stream::unpacked(path, &folder)?;
            plain.rewind()?;
            file = plain;
        }
        let file = Arc::new(file);
        let mut entries = BTreeMap::new();
        let mut links = Vec::new();
        let whole = Slice {
            offset: 0,
            size: file.metadata()?.len(),
        };
        let bytes = stream::decompress(io::BufReader::with_capacity(1 << 16, whole.reader(&file)))?;
        stream::entries(bytes, |entry| {
            let name = listing::clean(
                std::str::from_utf8(&entry.path_bytes()).context("an entry's name is not UTF-8")?,
            )?;
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    let slice = Slice {
                        offset: entry.raw_file_position(),
                        size: entry.size(),
                    };
                    // `ctr images export` may write one blob twice; the last entry counts, as for
                    // tar.
                    entries.insert(name, slice);
                }
                kind @ (EntryType::Symlink | EntryType::Link) => {
                    let target = entry.link_name_bytes().unwrap_or_default();
                    let target = std::str::from_utf8(&target)
                        .context("a link's target is not UTF-8")?
                        .to_owned();
                    links.push((name, target, kind == EntryType::Symlink));
                }
                EntryType::Directory | EntryType::XGlobalHeader => {}
                other => {
                    bail!(
                        "entry `{name}` has the type {other:?}, which is invalid in an image \
                         archive"
                    )
                }
            }
            Ok(())
        })?;
        let mut index = Self { file, entries };
        // docker before 25 writes a shared layer once, and links to it.
        for (name, target, symbolic) in links {
            let target = if symbolic {
                beside(&name, &target)
            } else {
                Some(target)
            };
            if let Some(slice) = target.and_then(|t| index.entries.get(&t).copied()) {
                index.entries.insert(name, slice);
            }
        }
        Ok(index)
    }

    pub(super) fn get(&self, name: &str) -> Option<Slice> {
        self.entries.get(name).copied()
    }
}

impl Entries for Index {
    fn size(&self, name: &str) -> Option<u64> {
        self.get(name).map(|slice| slice.size)
    }

    /// The contents of a description, which must exist.
    fn description(&self, name: &str) -> Result<Vec<u8>> {
        let slice = self
            .get(name)
            .with_context(|| format!("it has no `{name}`"))?;
        ensure!(
            slice.size <= DESCRIPTION,
            "`{name}` has {} bytes, more than a description may have",
            slice.size
        );
        let mut bytes = Vec::new();
        slice
            .reader(&self.file)
            .read_to_end(&mut bytes)
            .with_context(|| format!("reading `{name}`"))?;
        Ok(bytes)
    }
}

/// The target of a relative link in the folder of `name`.
pub(in crate::package) fn beside(name: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
