//! Checks the headers of a tar stream before the crate `tar` acts on them.
//!
//! The crate reads long names and PAX records whole, up to the size that their header claims, and
//! takes sizes that do not fit into a file. This reader follows the headers in the bytes that pass
//! through it, and fails before such an entry is read.

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::pax;

const BLOCK: usize = 512;
/// The limit of a long name or of the PAX records of one entry, far above those of real archives.
const MAX_RECORDS: u64 = 1 << 20;
/// The same for all of an archive: a million long names.
const MAX_ALL_RECORDS: u64 = 256 << 20;
/// The limit of entries, their extended headers counted too.
const MAX_ENTRIES: u64 = 2_000_000;
/// The first size that does not fit into a header's twelve octal digits.
const LARGE: u64 = 1 << 33;
/// The limit of a file with its holes, which cost nothing in the archive and time to read.
const MAX_SPARSE: u64 = 64 << 30;
/// The largest file of Linux.
const MAX_SIZE: u64 = i64::MAX as u64;

/// A reader of a tar stream.
pub(super) struct Framing<R> {
    inner: R,
    next: Next,
    /// A header or the records of an entry, as far as they have been read.
    part: Vec<u8>,
    /// The extended headers before the entry that follows.
    extended: Extended,
    entries: u64,
    records: u64,
}

/// What the next byte belongs to.
#[derive(Clone, Copy)]
enum Next {
    Header,
    /// More of the map of a sparse file, then contents of this size.
    SparseMap(u64),
    /// PAX records of this size, and what is left of them with their padding.
    Records(usize, u64),
    /// Other contents with their padding.
    Contents(u64),
    /// Behind the first block of zeros.
    End,
    /// Behind a header that is not one, which the crate refuses.
    Unknown,
}

#[derive(Default)]
struct Extended {
    /// The types seen.
    kinds: Vec<EntryType>,
    size: Option<u64>,
}

impl<R> Framing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            next: Next::Header,
            part: Vec::with_capacity(BLOCK),
            extended: Extended::default(),
            entries: 0,
            records: 0,
        }
    }

    /// Whether a block of zeros has ended the archive.
    pub(super) fn ended(&self) -> bool {
        matches!(self.next, Next::End)
    }

    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            match self.next {
                Next::Header => {
                    if self.collect(&mut bytes, BLOCK) {
                        let block = std::mem::take(&mut self.part);
                        self.next = self.header(&block)?;
                    }
                }
                Next::SparseMap(size) => {
                    if self.collect(&mut bytes, BLOCK) {
                        // The byte behind the map says whether another block of it follows.
                        if self.part[504] != 1 {
                            self.next = contents(size);
                        }
                        self.part.clear();
                    }
                }
                Next::Records(size, left) => {
                    let rest = pass(&mut bytes, left);
                    self.part.extend_from_slice(rest);
                    let left = left - rest.len() as u64;
                    self.next = Next::Records(size, left);
                    if left == 0 {
                        self.part.truncate(size);
                        let records = std::mem::take(&mut self.part);
                        self.extended.size = size_in(&records)?;
                        self.next = Next::Header;
                    }
                }
                Next::Contents(left) => {
                    let left = left - pass(&mut bytes, left).len() as u64;
                    self.next = if left == 0 {
                        Next::Header
                    } else {
                        Next::Contents(left)
                    };
                }
                Next::End | Next::Unknown => return Ok(()),
            }
        }
        Ok(())
    }

    /// Adds bytes to `part`, up to `length`; whether it is complete.
    fn collect(&mut self, bytes: &mut &[u8], length: usize) -> bool {
        let missing = (length - self.part.len()) as u64;
        self.part.extend_from_slice(pass(bytes, missing));
        self.part.len() == length
    }

    /// What follows the header in `block`.
    fn header(&mut self, block: &[u8]) -> Result<Next, String> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(Next::End);
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        let sum = block[..148].iter().chain(&block[156..]);
        let sum: u32 = sum.map(|byte| u32::from(*byte)).sum();
        let (Ok(expected), Ok(size)) = (header.cksum(), header.entry_size()) else {
            return Ok(Next::Unknown);
        };
        if sum + 8 * u32::from(b' ') != expected {
            return Ok(Next::Unknown);
        }
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(format!("it has more than {MAX_ENTRIES} entries"));
        }
        let kind = header.entry_type();
        match kind {
            EntryType::GNULongName
            | EntryType::GNULongLink
            | EntryType::XHeader
            | EntryType::XGlobalHeader => self.extended_header(kind, size),
            _ => {
                let size = self.size_of_entry(size)?;
                let gnu = header.as_gnu();
                let more = gnu.is_some_and(|gnu| gnu.is_extended());
                let whole = gnu.map_or(0, |gnu| gnu.real_size().unwrap_or(0));
                if kind == EntryType::GNUSparse && whole > MAX_SPARSE {
                    return Err(format!(
                        "a sparse file has {whole} bytes with its holes, more than {MAX_SPARSE}"
                    ));
                }
                Ok(match kind {
                    EntryType::GNUSparse if more => Next::SparseMap(size),
                    _ => contents(size),
                })
            }
        }
    }

    fn extended_header(&mut self, kind: EntryType, size: u64) -> Result<Next, String> {
        if size > MAX_RECORDS {
            return Err(format!(
                "an extended header has {size} bytes, more than {MAX_RECORDS}"
            ));
        }
        self.records += size;
        if self.records > MAX_ALL_RECORDS {
            return Err(format!(
                "its extended headers have more than {MAX_ALL_RECORDS} bytes"
            ));
        }
        // One for the whole archive may stand before any entry, and more than once.
        if kind == EntryType::XGlobalHeader {
            return Ok(contents(size));
        }
        if self.extended.kinds.contains(&kind) {
            return Err("an entry has two extended headers of one kind".to_owned());
        }
        self.extended.kinds.push(kind);
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        Ok(match (kind, contents(size)) {
            (EntryType::XHeader, Next::Contents(left)) => Next::Records(length, left),
            (_, next) => next,
        })
    }

    /// The size of an entry whose header says `size`.
    fn size_of_entry(&mut self, size: u64) -> Result<u64, String> {
        let size = match std::mem::take(&mut self.extended).size {
            // A large file has its size in the records only.
            Some(records) if records != size && (size != 0 || records < LARGE) => {
                return Err(format!(
                    "an entry has two sizes, {size} and {records}: readers disagree about what \
                     follows"
                ));
            }
            Some(records) => records,
            None => size,
        };
        if size > MAX_SIZE - BLOCK as u64 {
            return Err(format!("an entry has {size} bytes, more than a file has"));
        }
        Ok(size)
    }
}

impl<R: Read> Read for Framing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.follow(&buffer[..n]).map_err(io::Error::other)?;
        Ok(n)
    }
}

fn contents(size: u64) -> Next {
    match size.next_multiple_of(BLOCK as u64) {
        0 => Next::Header,
        left => Next::Contents(left),
    }
}

/// Takes at most `count` bytes off the front.
fn pass<'a>(bytes: &mut &'a [u8], count: u64) -> &'a [u8] {
    let count = usize::try_from(count)
        .unwrap_or(usize::MAX)
        .min(bytes.len());
    let (front, rest) = bytes.split_at(count);
    *bytes = rest;
    front
}

/// The records that decide what an entry is and where the next one begins.
const DECISIVE: [&str; 3] = ["path", "linkpath", "size"];

/// The size in the PAX records of an entry. What readers disagree about is an error: the crate
/// takes a line for a record, although a value may have a line break, and the first of two equal
/// keys instead of the last.
fn size_in(records: &[u8]) -> Result<Option<u64>, String> {
    let ours = pax::records(records).map_err(|error| error.to_string())?;
    if ours.iter().any(|(key, _)| key.starts_with("GNU.sparse.")) {
        return Err("an entry is a sparse file in PAX format; write it without holes".to_owned());
    }
    let decisive = |key: &str| DECISIVE.contains(&key);
    let ours: Vec<(&str, &[u8])> = ours
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_slice()))
        .filter(|(key, _)| decisive(key))
        .collect();
    let theirs: Vec<(&str, &[u8])> = tar::PaxExtensions::new(records)
        .flatten()
        .filter_map(|record| Some((record.key().ok()?, record.value_bytes())))
        .filter(|(key, _)| decisive(key))
        .collect();
    let once = DECISIVE
        .iter()
        .all(|key| ours.iter().filter(|(other, _)| other == key).count() < 2);
    if ours != theirs || !once {
        return Err("an entry has PAX records that readers disagree about".to_owned());
    }
    let Some((_, size)) = ours.iter().find(|(key, _)| *key == "size") else {
        return Ok(None);
    };
    let number = std::str::from_utf8(size)
        .ok()
        .and_then(|text| text.parse().ok());
    number
        .map(Some)
        .ok_or_else(|| "the PAX record `size` is not a number".to_owned())
}

#[cfg(test)]
mod tests;
