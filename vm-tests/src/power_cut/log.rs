//! The log of all writes of a disk, as QEMU's driver `blklogwrites` keeps it.
//!
//! The format is that of Linux' dm-log-writes: a superblock, then an entry of one sector for each
//! request with the written bytes behind it. QEMU adds an entry when the request is complete and
//! before the guest learns that, so every write that the guest knew to be complete when it asked
//! for a flush comes before that flush.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// The unit of a disk that is written completely or not at all.
pub const SECTOR: u64 = 512;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

const FLUSH: u64 = 1 << 0;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// The largest piece of a write that is read at a time.
const PIECE: u64 = 1 << 20;

const ZEROS: [u8; 4096] = [0; 4096];

/// One request of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub sector: u64,
    pub sectors: u64,
    /// What was complete before this entry is on the medium from now on.
    pub is_flush: bool,
    /// The bytes of this entry are on the medium from now on.
    pub is_durable: bool,
    /// The sectors have no content any more; the log has no bytes.
    pub is_discard: bool,
    /// The number of the file.
    file: usize,
    /// Where the entry begins in its file.
    begin: u64,
}

/// The logs of consecutive boots of one disk, as one list of entries.
#[derive(Debug)]
pub struct Log {
    files: Vec<File>,
    entries: Vec<Entry>,
    /// For each file the number of its first entry.
    firsts: Vec<usize>,
}

/// Where entries are written to.
pub trait Target {
    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<()>;
    fn zero(&mut self, sector: u64, sectors: u64) -> Result<()>;
}

impl Log {
    /// Reads the entries of `paths`. Between two boots the disk has been switched off cleanly.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut log = Self {
            files: Vec::new(),
            entries: Vec::new(),
            firsts: Vec::new(),
        };
        for path in paths {
            log.add(path)
                .with_context(|| format!("reading the log `{}`", path.display()))?;
        }
        Ok(log)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let number = self.files.len();
        self.firsts.push(self.entries.len());
        let head = words(&file, 0)?;
        ensure!(
            head[0] == MAGIC && head[1] == VERSION,
            "it has no superblock of dm-log-writes"
        );
        // The lower half of the fourth word is the size of a sector.
        ensure!(
            head[3] & 0xffff_ffff == SECTOR,
            "its sectors do not have {SECTOR} bytes"
        );
        if number > 0 {
            self.entries.push(Entry {
                sector: 0,
                sectors: 0,
                is_flush: true,
                is_durable: false,
                is_discard: false,
                file: number,
                begin: 0,
            });
        }
        let mut begin = SECTOR;
        for nth in 0..head[2] {
            let [sector, sectors, flags, data] = words(&file, begin)?;
            ensure!(
                flags & !(FLUSH | FUA | DISCARD | MARK) == 0,
                "entry {nth} has unknown flags {flags:#x}"
            );
            let is_discard = flags & DISCARD != 0;
            let entry = Entry {
                sector,
                sectors,
                is_flush: flags & FLUSH != 0,
                is_durable: flags & FUA != 0,
                is_discard,
                file: number,
                begin,
            };
            begin += SECTOR;
            if flags & MARK != 0 {
                begin += data.next_multiple_of(SECTOR);
                continue;
            }
            if !is_discard {
                begin += sectors * SECTOR;
            }
            ensure!(begin <= length, "entry {nth} ends behind the file");
            self.entries.push(entry);
        }
        self.files.push(file);
        Ok(())
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The number of entries that begin in the first `bytes` bytes of file number `file`, with all
    /// entries of the files before it.
    pub fn position(&self, file: usize, bytes: u64) -> usize {
        let is_before =
            |entry: &Entry| entry.file < file || entry.file == file && entry.begin < bytes;
        self.entries.partition_point(is_before)
    }

    /// The number of the first entry of file number `file`.
    pub fn first_of(&self, file: usize) -> usize {
        self.firsts.get(file).copied().unwrap_or_default()
    }

    /// Of the first `at` entries, how many the disk has flushed.
    pub fn flushed(&self, at: usize) -> usize {
        let done = &self.entries[..at.min(self.entries.len())];
        done.iter()
            .rposition(|entry| entry.is_flush)
            .unwrap_or_default()
    }

    /// Writes the sectors `from..to` of an entry, counted from its first.
    pub fn apply(&self, entry: &Entry, from: u64, to: u64, target: &mut dyn Target) -> Result<()> {
        if entry.is_discard {
            return target.zero(entry.sector + from, to - from);
        }
        let file = &self.files[entry.file];
        let mut buffer = vec![0; usize::try_from(((to - from) * SECTOR).min(PIECE))?];
        let body = entry.begin + SECTOR;
        let mut at = from;
        while at < to {
            // The initial zeros of a file system are gigabytes, and a hole in the log.
            let data = next_data(file, body + at * SECTOR)?.map(|byte| (byte - body) / SECTOR);
            let data = data.unwrap_or(to).min(to);
            if data > at {
                target.zero(entry.sector + at, data - at)?;
                at = data;
                continue;
            }
            let count = (to - at).min(PIECE / SECTOR);
            let bytes = &mut buffer[..usize::try_from(count * SECTOR)?];
            file.read_exact_at(bytes, body + at * SECTOR)
                .context("reading the log")?;
            if bytes
                .chunks(ZEROS.len())
                .all(|part| part == &ZEROS[..part.len()])
            {
                target.zero(entry.sector + at, count)?;
            } else {
                target.write(entry.sector + at, bytes)?;
            }
            at += count;
        }
        Ok(())
    }
}

/// The first byte at or after `from` that is not in a hole of the file.
fn next_data(file: &File, from: u64) -> Result<Option<u64>> {
    match lseek(file, i64::try_from(from)?, Whence::SeekData) {
        Ok(at) => Ok(Some(u64::try_from(at)?)),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error).context("looking for data in the log"),
    }
}

/// The first four little-endian words at `begin`.
fn words(file: &File, begin: u64) -> Result<[u64; 4]> {
    let mut bytes = [0; 32];
    file.read_exact_at(&mut bytes, begin)
        .with_context(|| format!("reading the entry at byte {begin}"))?;
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into()?);
    }
    Ok(words)
}

/// Writes logs, for tests.
#[cfg(test)]
pub(crate) mod writer {
    use super::*;

    #[derive(Debug, Default)]
    pub(crate) struct Writer {
        body: Vec<u8>,
        count: u64,
    }

    impl Writer {
        fn entry(&mut self, sector: u64, sectors: u64, flags: u64, data: &[u8]) {
            let mut head = vec![0; SECTOR as usize];
            for (at, word) in [sector, sectors, flags, 0].iter().enumerate() {
                head[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
            }
            self.body.extend(head);
            self.body.extend(data);
            self.count += 1;
        }

        pub(crate) fn write(&mut self, sector: u64, data: &[u8]) {
            self.entry(sector, data.len() as u64 / SECTOR, 0, data);
        }

        pub(crate) fn write_through(&mut self, sector: u64, data: &[u8]) {
            self.entry(sector, data.len() as u64 / SECTOR, FUA, data);
        }

        pub(crate) fn discard(&mut self, sector: u64, sectors: u64) {
            self.entry(sector, sectors, DISCARD, &[]);
        }

        pub(crate) fn flush(&mut self) {
            self.entry(0, 0, FLUSH, &[]);
        }

        pub(crate) fn save(&self, path: &Path) {
            let mut bytes = vec![0; SECTOR as usize];
            for (at, word) in [MAGIC, VERSION, self.count, SECTOR].iter().enumerate() {
                bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
            }
            bytes.extend(&self.body);
            std::fs::write(path, bytes).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::writer::Writer;
    use super::*;

    fn sector(byte: u8) -> Vec<u8> {
        vec![byte; SECTOR as usize]
    }

    #[test]
    fn entries_of_two_boots_are_one_list() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let paths = [dir.path().join("0"), dir.path().join("1")];
        let mut first = Writer::default();
        first.write(3, &[sector(1), sector(2)].concat());
        first.flush();
        first.discard(8, 4);
        first.save(&paths[0]);
        let mut second = Writer::default();
        second.write_through(3, &sector(3));
        second.save(&paths[1]);
        let log = Log::open(&paths)?;
        let shape: Vec<_> = log
            .entries()
            .iter()
            .map(|one| (one.sector, one.sectors, one.is_flush, one.is_discard))
            .collect();
        assert_eq!(
            shape,
            [
                (3, 2, false, false),
                (0, 0, true, false),
                (8, 4, false, true),
                // The disk was switched off.
                (0, 0, true, false),
                (3, 1, false, false),
            ]
        );
        assert!(log.entries()[4].is_durable);
        // The superblock, the first entry with two sectors, the flush.
        assert_eq!(log.position(0, SECTOR), 0);
        assert_eq!(log.position(0, SECTOR + 1), 1);
        assert_eq!(log.position(0, 4 * SECTOR + 1), 2);
        assert_eq!(log.position(1, 0), 3);
        assert_eq!((log.first_of(1), log.position(1, u64::MAX)), (3, 5));
        assert_eq!([0, 1, 2, 3, 5].map(|at| log.flushed(at)), [0, 0, 1, 1, 3]);
        Ok(())
    }

    #[test]
    fn log_that_ends_early_or_has_unknown_flags_is_refused() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("log");
        let mut writer = Writer::default();
        writer.write(0, &sector(1));
        writer.save(&path);
        let bytes = std::fs::read(&path)?;
        std::fs::write(&path, &bytes[..bytes.len() - 1])?;
        let error = format!("{:#}", Log::open(std::slice::from_ref(&path)).unwrap_err());
        assert!(error.contains("ends behind the file"), "{error}");
        let mut unknown = bytes.clone();
        unknown[SECTOR as usize + 17] = 1;
        std::fs::write(&path, unknown)?;
        let error = format!("{:#}", Log::open(&[path]).unwrap_err());
        assert!(error.contains("unknown flags"), "{error}");
        Ok(())
    }
}
