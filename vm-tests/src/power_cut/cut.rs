//! What a disk with a volatile cache holds after its power is cut.
//!
//! The sectors that were written before the last completed flush are on the medium. Of those that
//! were written since, any subset may be: a cache writes them in any order, and a physical sector
//! is written completely or not at all. Two writes of one sector leave the older content, the first
//! or the second one, so a subset that is applied in the order of the log is every possible
//! outcome.

use std::iter;
use std::ops::Range;

use anyhow::Result;

use super::log::{Entry, Log, Target};

/// The sectors of 512 bytes in a physical sector, which disks of today write as a whole. ext4 needs
/// it: its superblock has 1,024 bytes, two sectors of an old disk, and one checksum.
pub const PHYSICAL: u64 = 8;

/// Requests with more sectors are written in larger units.
const LARGE: u64 = 1 << 16;

/// One power cut: after how many completed requests, and what the cache has written by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    pub at: usize,
    pub kept: Kept,
    /// Of the choice.
    pub seed: u64,
    /// How many sectors are written completely or not at all; [`PHYSICAL`], or 1 for an old disk.
    pub unit: u64,
}

/// Which writes since the last flush are on the medium.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kept {
    Nothing,
    Everything,
    /// Each write with this probability; a fifth of the others in part.
    Some(f64),
}

/// A small generator of pseudo-random numbers (splitmix64): equal seeds give equal cuts on every
/// machine and with every version of this program's libraries.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        match u64::try_from(end) {
            Ok(0) | Err(_) => 0,
            Ok(end) => usize::try_from(self.draw() % end).unwrap_or(0),
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        // The upper 53 bits are exact in a double.
        ((self.draw() >> 11) as f64) < probability * (1u64 << 53) as f64
    }
}

impl Cut {
    /// A cut after `at` requests, whose outcome is chosen by `random`.
    pub fn choose(at: usize, random: &mut Random) -> Self {
        let seed = random.draw();
        let kept = match random.below(20) {
            0..6 => Kept::Nothing,
            6..9 => Kept::Everything,
            _ => Kept::Some(0.1 + 0.8 * random.below(9) as f64 / 8.0),
        };
        Self {
            at,
            kept,
            seed,
            unit: PHYSICAL,
        }
    }

    /// A cut whose outcome needs no choice.
    pub fn plain(at: usize, kept: Kept) -> Self {
        Self {
            at,
            kept,
            seed: 0,
            unit: PHYSICAL,
        }
    }

    /// How many of the first requests are on the medium completely.
    pub fn flushed(&self, log: &Log) -> usize {
        log.flushed(self.at)
    }

    /// Writes to a disk that holds the flushed requests what the cache has written besides.
    pub fn apply(&self, log: &Log, target: &mut dyn Target) -> Result<()> {
        let mut random = Random::new(self.seed);
        for entry in &log.entries()[self.flushed(log)..self.at] {
            for part in self.parts(entry, &mut random) {
                log.apply(entry, part.start, part.end, target)?;
            }
        }
        Ok(())
    }

    /// The parts of a request that are on the medium.
    fn parts(&self, entry: &Entry, random: &mut Random) -> Vec<Range<u64>> {
        let whole = iter::once(0..entry.sectors).collect();
        if entry.sectors == 0 {
            return Vec::new();
        }
        let probability = match self.kept {
            _ if entry.is_durable => return whole,
            Kept::Nothing => return Vec::new(),
            Kept::Everything => return whole,
            Kept::Some(probability) => probability,
        };
        if random.chance(probability) {
            return whole;
        }
        if !random.chance(0.2) {
            return Vec::new();
        }
        let mut parts = Vec::<Range<u64>>::new();
        let mut from = 0;
        // Of gigabytes of zeros a few thousand parts are enough.
        let size = self.unit * (entry.sectors / LARGE).max(1);
        while from < entry.sectors {
            // A physical sector begins at a multiple of its size, a request anywhere.
            let unit = size - (entry.sector + from) % size;
            let to = (from + unit).min(entry.sectors);
            if random.chance(0.5) {
                match parts.last_mut() {
                    Some(last) if last.end == from => last.end = to,
                    _ => parts.push(from..to),
                }
            }
            from = to;
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::super::log::SECTOR;
    use super::super::log::writer::Writer;
    use super::*;

    /// A disk of a few sectors; each is described by its first byte.
    #[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord, Clone)]
    struct Small([u8; 8]);

    impl Target for Small {
        fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<()> {
            for (at, bytes) in (sector..).zip(bytes.chunks(SECTOR as usize)) {
                self.0[at as usize] = bytes[0];
            }
            Ok(())
        }

        fn zero(&mut self, sector: u64, sectors: u64) -> Result<()> {
            self.0[sector as usize..(sector + sectors) as usize].fill(0);
            Ok(())
        }
    }

    fn sectors(bytes: &[u8]) -> Vec<u8> {
        bytes
            .iter()
            .flat_map(|byte| vec![*byte; SECTOR as usize])
            .collect()
    }

    /// The disk after a cut.
    fn left(log: &Log, cut: Cut) -> Small {
        let mut disk = Small::default();
        for entry in &log.entries()[..cut.flushed(log)] {
            log.apply(entry, 0, entry.sectors, &mut disk).unwrap();
        }
        cut.apply(log, &mut disk).unwrap();
        disk
    }

    fn log(dir: &Path, fill: impl FnOnce(&mut Writer)) -> Log {
        let path = dir.join("log");
        let mut writer = Writer::default();
        fill(&mut writer);
        writer.save(&path);
        Log::open(&[path]).unwrap()
    }

    #[test]
    fn flushed_writes_stay_and_of_the_others_every_subset_is_possible() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path(), |log| {
            log.write(0, &sectors(&[1, 2]));
            log.flush();
            log.write(0, &sectors(&[3]));
            log.write(2, &sectors(&[4, 5]));
            log.discard(1, 1);
            log.write_through(7, &sectors(&[6]));
        });
        let end = log.entries().len();
        let mut seen = BTreeSet::new();
        let mut random = Random::new(7);
        for _ in 0..2000 {
            let cut = Cut::choose(end, &mut random);
            seen.insert(left(&log, Cut { unit: 1, ..cut }).0);
        }
        for first in [1, 3] {
            for second in [2, 0] {
                for third in [[0, 0], [4, 5], [4, 0], [0, 5]] {
                    let disk = [first, second, third[0], third[1], 0, 0, 0, 6];
                    assert!(seen.remove(&disk), "{disk:?} does not come up");
                }
            }
        }
        assert!(seen.is_empty(), "impossible: {seen:?}");
    }

    #[test]
    fn physical_sector_is_written_completely_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path(), |log| log.write(1, &sectors(&[1, 2, 3, 4, 5])));
        let mut random = Random::new(3);
        let mut seen = BTreeSet::new();
        for _ in 0..500 {
            let cut = Cut::choose(1, &mut random);
            seen.insert(left(&log, Cut { unit: 2, ..cut }).0);
        }
        let has = |disk: &[u8; 8]| [disk[1] != 0, disk[2] != 0, disk[4] != 0];
        for disk in &seen {
            assert_eq!(disk[2] == 0, disk[3] == 0, "{disk:?}");
            assert_eq!(disk[4] == 0, disk[5] == 0, "{disk:?}");
        }
        let parts: BTreeSet<_> = seen.iter().map(has).collect();
        assert_eq!(parts.len(), 8, "{seen:?}");
    }

    #[test]
    fn cut_right_after_a_flush_keeps_all_and_in_the_flush_may_lose_all() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path(), |log| {
            log.write(4, &sectors(&[1]));
            log.flush();
        });
        let cut = |at| Cut::plain(at, Kept::Nothing);
        assert_eq!(left(&log, cut(1)).0[4], 0);
        assert_eq!(left(&log, cut(2)).0[4], 1);
    }

    #[test]
    fn equal_seeds_give_equal_cuts() {
        let cuts = |seed| {
            let mut random = Random::new(seed);
            (0..50)
                .map(|at| Cut::choose(at, &mut random))
                .collect::<Vec<_>>()
        };
        assert_eq!(cuts(1), cuts(1));
        assert_ne!(cuts(1), cuts(2));
        // Of the published reference implementation.
        assert_eq!(Random::new(1_234_567).draw(), 6_457_827_717_110_365_317);
    }

    /// Of a file system in which sector 0 names the sector of the only file.
    fn finds_an_unfinished_file(syncs: bool) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path(), |log| {
            log.write(1, &sectors(b"a"));
            log.flush();
            log.write(0, &sectors(&[1]));
            log.flush();
            log.write(2, &sectors(b"b"));
            if syncs {
                log.flush();
            }
            // The rename.
            log.write(0, &sectors(&[2]));
            log.flush();
        });
        let mut random = Random::new(1);
        (0..500).any(|_| {
            let at = random.below(log.entries().len() + 1);
            let disk = left(&log, Cut::choose(at, &mut random)).0;
            let file = disk[usize::from(disk[0])];
            disk[0] != 0 && ![b'a', b'b'].contains(&file)
        })
    }

    #[test]
    fn file_that_is_renamed_without_a_sync_is_found() {
        assert!(finds_an_unfinished_file(false));
    }

    #[test]
    fn file_that_is_synced_before_the_rename_is_always_whole() {
        assert!(!finds_an_unfinished_file(true));
    }
}
