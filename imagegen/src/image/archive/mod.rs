//! The root file system: a sorted list of entries from many sources, written as one tar stream.
//!
//! Nothing is unpacked on the build host, so its users, file systems and privileges do not affect
//! owners, modes, devices and attributes in the image.

mod reader;
mod tar_split;
mod tarfile;
mod unpack;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use build_tools::debian_tree::SOURCE_DATE_EPOCH;

pub use self::tar_split::tar_split;
pub use self::unpack::Placed;

/// Entries by path, relative and without a trailing slash.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub content: Content,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Seconds since 1970.
    pub mtime: u64,
    pub xattrs: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, Clone)]
pub enum Content {
    Directory,
    File(Data),
    Symlink(String),
    /// Another name for a file of the same archive.
    Hardlink(String),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

#[derive(Debug, Clone)]
pub enum Data {
    Bytes(Arc<[u8]>),
    /// Part of an open file.
    Slice {
        file: Arc<File>,
        offset: u64,
        len: u64,
    },
    Path(PathBuf, u64),
}

impl Data {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Slice { len, .. } | Self::Path(_, len) => *len,
        }
    }

    pub fn reader(&self) -> Result<Box<dyn Read + '_>> {
        Ok(match self {
            Self::Bytes(bytes) => Box::new(&bytes[..]),
            Self::Slice { file, offset, len } => Box::new(SliceReader {
                file,
                position: *offset,
                left: *len,
            }),
            Self::Path(path, _) => {
                Box::new(File::open(path).with_context(|| format!("opening `{}`", path.display()))?)
            }
        })
    }
}

struct SliceReader<'a> {
    file: &'a File,
    position: u64,
    left: u64,
}

impl Read for SliceReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.file.read_at(&mut buffer[..want], self.position)?;
        self.position += got as u64;
        self.left -= got as u64;
        Ok(got)
    }
}

impl Archive {
    /// Adds an entry, and missing parent directories with owner root and mode 0755.
    pub fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            self.entries
                .entry(path[..end].to_owned())
                .or_insert_with(|| Entry::new(Content::Directory, 0o755));
        }
        self.entries.insert(path.to_owned(), entry);
    }

    pub fn directory(&mut self, path: &str, mode: u32) {
        self.add(path, Entry::new(Content::Directory, mode));
    }

    pub fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Arc<[u8]>>) {
        self.add(
            path,
            Entry::new(Content::File(Data::Bytes(bytes.into())), mode),
        );
    }

    /// Adds a file of the build host.
    pub fn host_file(&mut self, path: &str, mode: u32, source: &Path) -> Result<()> {
        let len = source
            .metadata()
            .with_context(|| format!("reading `{}`", source.display()))?
            .len();
        self.add(
            path,
            Entry::new(Content::File(Data::Path(source.to_owned(), len)), mode),
        );
        Ok(())
    }

    /// Adds a folder of the build host recursively, with owner root.
    pub fn host_folder(&mut self, path: &str, source: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let entries =
            std::fs::read_dir(source).with_context(|| format!("reading `{}`", source.display()))?;
        for item in entries {
            let item = item.with_context(|| format!("reading `{}`", source.display()))?;
            let name = item.file_name();
            let name = name.to_str().with_context(|| {
                format!("`{}` has a name that is not UTF-8", item.path().display())
            })?;
            let inside = format!("{path}/{name}");
            let meta = item
                .metadata()
                .with_context(|| format!("reading `{}`", item.path().display()))?;
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_dir() {
                self.directory(&inside, mode);
                self.host_folder(&inside, &item.path())?;
            } else if meta.is_symlink() {
                let target = std::fs::read_link(item.path())?;
                self.symlink(&inside, &target.to_string_lossy());
            } else if meta.is_file() {
                self.host_file(&inside, mode, &item.path())?;
            }
        }
        Ok(())
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        self.add(path, Entry::new(Content::Symlink(target.to_owned()), 0o777));
    }

    /// All entries, ordered by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries
            .iter()
            .map(|(path, entry)| (path.as_str(), entry))
    }

    /// Path and target of each symlink below the folder `path`.
    pub fn symlinks(&self, path: &str) -> Vec<(String, String)> {
        let below = format!("{path}/");
        let found = self.entries.iter().filter(|(p, _)| p.starts_with(&below));
        let links = found.filter_map(|(path, entry)| match &entry.content {
            Content::Symlink(target) => Some((path.clone(), target.clone())),
            _ => None,
        });
        links.collect()
    }

    /// The size of a file; 0 for anything else.
    pub fn size(&self, path: &str) -> u64 {
        match self.entries.get(path).map(|entry| &entry.content) {
            Some(Content::File(data)) => data.len(),
            _ => 0,
        }
    }

    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The contents of a small file in the archive.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        match self.entries.get(path).map(|e| &e.content) {
            Some(Content::File(data)) => {
                let mut bytes = Vec::new();
                data.reader()?
                    .read_to_end(&mut bytes)
                    .with_context(|| format!("reading `{path}`"))?;
                Ok(bytes)
            }
            _ => bail!("the root has no file `{path}`"),
        }
    }

    /// Removes `path` and everything below it.
    pub fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.entries
            .retain(|p, _| p != path && !p.starts_with(&below));
    }

    /// Number of entries and total size of files and symlinks below `path`, as lstat(2) counts.
    pub fn usage(&self, path: &str) -> (u64, u64) {
        let below = format!("{path}/");
        self.entries
            .range(below.clone()..)
            .take_while(|(p, _)| p.starts_with(&below))
            .fold((0, 0), |(count, size), (_, entry)| match &entry.content {
                Content::File(data) => (count + 1, size + data.len()),
                Content::Symlink(target) => (count + 1, size + target.len() as u64),
                _ => (count + 1, size),
            })
    }
}

impl Entry {
    /// An entry with owner root and the fixed date.
    pub fn new(content: Content, mode: u32) -> Self {
        Self {
            content,
            mode,
            uid: 0,
            gid: 0,
            mtime: SOURCE_DATE_EPOCH,
            xattrs: Vec::new(),
        }
    }
}
