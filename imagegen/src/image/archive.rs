//! The root file system as a sorted list of entries, from many sources, written out as one tar stream.
//!
//! Nothing is unpacked on the building host, so neither its users, nor its file systems, nor our privileges decide what
//! owners, modes, devices and attributes the image's files have.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};

use crate::tree::SOURCE_DATE_EPOCH;

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
    /// Another name of a file in the same archive.
    Hardlink(String),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

#[derive(Debug, Clone)]
pub enum Data {
    Bytes(Arc<[u8]>),
    /// A part of a file that stays open.
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

    fn reader(&self) -> Result<Box<dyn Read + '_>> {
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
    /// Adds one entry, and the directories above it that are missing (root's, 0755).
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

    /// A file of the building host.
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

    /// A folder of the building host with all that is in it; owners become root.
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

    /// Adds the entries of an uncompressed tar file, each at the path that `place` gives it; `None` leaves it out.
    /// Contents are read when the archive is written.
    pub fn add_tar(
        &mut self,
        file: &Arc<File>,
        place: impl Fn(&str) -> Option<Placed>,
    ) -> Result<()> {
        // Read from the start, whatever the file's own position is: several readers share it.
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
                                "`{path}` is a hard link to `{target}`, which is left out of the image"
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

    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The whole content of a small file in the archive.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        match self.entries.get(path).map(|e| &e.content) {
            Some(Content::File(data)) => {
                let mut bytes = Vec::new();
                data.reader()?
                    .read_to_end(&mut bytes)
                    .with_context(|| format!("reading `{path}`"))?;
                Ok(bytes)
            }
            _ => bail!("no file `{path}` in the root"),
        }
    }

    /// Removes `path` and everything below it.
    pub fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.entries
            .retain(|p, _| p != path && !p.starts_with(&below));
    }

    /// Number of entries and bytes of file contents below `path`.
    pub fn usage(&self, path: &str) -> (u64, u64) {
        let below = format!("{path}/");
        self.entries
            .range(below.clone()..)
            .take_while(|(p, _)| p.starts_with(&below))
            .fold((0, 0), |(count, size), (_, entry)| match &entry.content {
                Content::File(data) => (count + 1, size + data.len()),
                _ => (count + 1, size),
            })
    }

    /// Writes all entries in the order of their paths; hard links come last, after what they link to.
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

/// Where an entry of a tar archive goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    At(String),
    /// A file of a lower layer that this layer removes.
    Whiteout(String),
    /// A directory whose lower layers do not show.
    Opaque(String),
}

impl Entry {
    /// Root's, dated like everything else we make.
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

/// A path inside an archive, relative, without `.` parts; one that climbs out is refused.
fn clean(path: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(path)
        .with_context(|| format!("`{}` is not a UTF-8 path", String::from_utf8_lossy(path)))?;
    let parts: Vec<&str> = text
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    ensure!(!parts.contains(&".."), "`{text}` climbs out of its archive");
    Ok(parts.join("/"))
}

fn read_entry(entry: &mut tar::Entry<'_, impl Read>, file: &Arc<File>) -> Result<Entry> {
    let header = entry.header().clone();
    let link = |entry: &tar::Entry<'_, _>| -> Result<String> {
        let name = entry.link_name_bytes().context("a link without a target")?;
        String::from_utf8(name.into_owned()).context("a link target that is not UTF-8")
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
        other => bail!("entry type {other:?} has no place in a root file system"),
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
        // Dates later than ours would come from the day of building.
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
