//! Reads the headers of a tar file as Go's `archive/tar` does, which containerd unpacks layers
//! with: what both would read differently is an error.
//!
//! Contents are not read: an entry says where in the file they are.

use std::borrow::Cow;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tar::{EntryType, Header};

use crate::pax;

const BLOCK: u64 = 512;

/// The limit of a long name or of the PAX records of one entry, far above those of real archives
/// and below what fills the memory.
const MAX_RECORDS: u64 = 1 << 20;

/// The limit of entries in one archive, their extended headers counted too.
const MAX_ENTRIES: u64 = 2_000_000;

/// One entry, with everything that its extended headers say.
#[derive(Debug)]
pub(super) struct RawEntry {
    pub(super) header: Header,
    pub(super) kind: EntryType,
    pub(super) path: Vec<u8>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
    /// Offset of the contents in the file.
    pub(super) offset: u64,
    pub(super) size: u64,
}

#[derive(Debug)]
pub(super) struct Reader<'a> {
    file: &'a File,
    length: u64,
    next: u64,
    entries: u64,
}

/// Extended headers of the entry that follows them.
#[derive(Debug, Default)]
struct Extended {
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    records: Option<Vec<(String, Vec<u8>)>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a File) -> Result<Self> {
        Ok(Self {
            file,
            length: file.metadata().context("reading a tar archive")?.len(),
            next: 0,
            entries: 0,
        })
    }

    /// The next entry; `None` at the end of the archive.
    pub(super) fn next_entry(&mut self) -> Result<Option<RawEntry>> {
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else {
                ensure!(
                    extended.long_path.is_none()
                        && extended.long_link.is_none()
                        && extended.records.is_none(),
                    "it ends after an extended header without its entry"
                );
                return Ok(None);
            };
            let size = field(header.entry_size(), "an entry has no size")?;
            let kind = header.entry_type();
            let twice = match kind {
                EntryType::GNULongName => extended
                    .long_path
                    .replace(until_nul(self.body(size)?))
                    .is_some(),
                EntryType::GNULongLink => extended
                    .long_link
                    .replace(until_nul(self.body(size)?))
                    .is_some(),
                EntryType::XHeader => {
                    let records = pax::records(&self.body(size)?)?;
                    extended.records.replace(records).is_some()
                }
                // containerd ignores it; `git archive` writes one.
                EntryType::XGlobalHeader => {
                    self.skip(size)?;
                    false
                }
                _ => return self.entry(header, kind, size, extended).map(Some),
            };
            ensure!(!twice, "an entry has two extended headers of one kind");
        }
    }

    /// Reads a block that is not the end of the archive.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            let mut second = [0; BLOCK as usize];
            ensure!(
                !self.block(&mut second)? || second.iter().all(|byte| *byte == 0),
                "it has entries behind a block of zeros"
            );
            return Ok(None);
        }
        self.entries += 1;
        ensure!(
            self.entries <= MAX_ENTRIES,
            "it has more than {MAX_ENTRIES} entries"
        );
        let bytes = header.as_bytes();
        let sum: u32 = bytes[..148]
            .iter()
            .chain(&bytes[156..])
            .map(|byte| u32::from(*byte))
            .sum();
        let expected = field(header.cksum(), "a header has no checksum")?;
        ensure!(
            sum + 8 * 32 == expected,
            "a header at byte {} has a wrong checksum",
            self.next - BLOCK
        );
        Ok(Some(header))
    }

    /// Reads one block, or nothing at the end of the file.
    fn block(&mut self, block: &mut [u8]) -> Result<bool> {
        if self.next >= self.length {
            return Ok(false);
        }
        match self.file.read_exact_at(block, self.next) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                bail!("it ends in the middle of a header")
            }
            done => done.context("reading a tar archive")?,
        }
        self.next += BLOCK;
        Ok(true)
    }

    /// The contents of an extended header.
    fn body(&mut self, size: u64) -> Result<Vec<u8>> {
        ensure!(
            size <= MAX_RECORDS,
            "an extended header has {size} bytes, more than {MAX_RECORDS}"
        );
        let offset = self.skip(size)?;
        let mut body = vec![0; usize::try_from(size).unwrap_or_default()];
        self.file
            .read_exact_at(&mut body, offset)
            .context("reading a tar archive")?;
        Ok(body)
    }

    /// Passes contents of `size` bytes and returns their offset.
    fn skip(&mut self, size: u64) -> Result<u64> {
        let offset = self.next;
        let end = offset.checked_add(size).filter(|end| *end <= self.length);
        let end = end.context("it ends in the middle of an entry")?;
        // The last block may be cut off.
        self.next = end.next_multiple_of(BLOCK);
        Ok(offset)
    }

    fn entry(
        &mut self,
        header: Header,
        kind: EntryType,
        size: u64,
        extended: Extended,
    ) -> Result<RawEntry> {
        let mut path = header.path_bytes().into_owned();
        let mut link = header.link_name_bytes().map(Cow::into_owned);
        let mut uid = field(header.uid(), "an entry has no owner")?;
        let mut gid = field(header.gid(), "an entry has no group")?;
        let mut xattrs = Vec::new();
        for (key, value) in extended.records.unwrap_or_default() {
            match key.as_str() {
                // An empty value takes the record back.
                "path" if !value.is_empty() => path = value,
                "linkpath" if !value.is_empty() => link = Some(value),
                "uid" if !value.is_empty() => uid = number(&key, &value)?,
                "gid" if !value.is_empty() => gid = number(&key, &value)?,
                "size" if !value.is_empty() => ensure!(
                    number(&key, &value)? == size,
                    "{} has two sizes, {size} and {}: readers disagree about what follows",
                    shown(&path),
                    String::from_utf8_lossy(&value)
                ),
                _ if key.starts_with("GNU.sparse.") => bail!(
                    "{} is a sparse file, which imagegen does not unpack; write it without holes",
                    shown(&path)
                ),
                _ => {
                    if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                        xattrs.retain(|(known, _)| known != name);
                        xattrs.push((name.to_owned(), value));
                    }
                }
            }
        }
        path = extended.long_path.unwrap_or(path);
        link = extended.long_link.or(link);
        // Only regular files have contents. In other entries the size is that of a linked file.
        let contents = match kind {
            EntryType::Link
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Directory
            | EntryType::Fifo => 0,
            _ => size,
        };
        let offset = self.skip(contents).with_context(|| shown(&path))?;
        // A file of the oldest format whose name ends in a slash is a folder.
        let old_folder = header.as_bytes()[156] == 0 && path.ends_with(b"/");
        Ok(RawEntry {
            kind: if old_folder {
                EntryType::Directory
            } else {
                kind
            },
            header,
            path,
            link,
            uid,
            gid,
            xattrs,
            offset,
            size: contents,
        })
    }
}

/// A number of a header. The crate's error quotes path and field with their control characters.
pub(super) fn field<T>(value: std::io::Result<T>, otherwise: &'static str) -> Result<T> {
    value.map_err(|_| anyhow!(otherwise))
}

/// A path for messages, which neither controls a terminal nor spans lines.
pub(super) fn shown(path: &[u8]) -> String {
    format!("`{}`", String::from_utf8_lossy(path).escape_debug())
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    bytes
}

fn number(key: &str, value: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(value).unwrap_or_default();
    text.parse()
        .with_context(|| format!("the PAX record `{key}` is not a number"))
}
