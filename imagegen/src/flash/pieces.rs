//! The bytes between the two copies of the partition table, in order and without a gap.

use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use userdata::contract::{ESP_PARTITION, SEED_PARTITION};

use super::{MIB, Source, fat};
use crate::image::vfat::SECTOR;

/// Large enough that a disk works without pauses.
pub(super) const CHUNK: usize = 4 << 20;
/// Of buffers in memory, for direct input and output.
const ALIGNMENT: usize = 4096;

#[derive(Debug)]
pub(super) struct Piece {
    at: u64,
    length: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// The same bytes of the image.
    Image,
    /// These bytes, and then zeros.
    Bytes(Vec<u8>),
}

/// From the first partition to a MiB after the last: there may be the start of a file system that
/// the disk had before, where the state partition begins.
pub(super) fn pieces(source: &Source, sector: u64) -> Result<Vec<Piece>> {
    let mut entries: Vec<_> = source.table.values().collect();
    entries.sort_by_key(|entry| entry.first_lba);
    let image = source.path().display();
    ensure!(
        entries.iter().any(|entry| entry.name == SEED_PARTITION),
        "`{image}` has no partition `{SEED_PARTITION}` for the seed"
    );
    let mut pieces = Vec::new();
    let zeros = |at, length| Piece {
        at,
        length,
        content: Content::Bytes(Vec::new()),
    };
    let mut position = MIB;
    for entry in entries {
        let (at, length) = Source::extent(entry);
        ensure!(at >= position, "two partitions of `{image}` overlap");
        pieces.push(zeros(position, at - position));
        let doing = || format!("making `{}` for sectors of {sector} bytes", entry.name);
        let content = match entry.name.as_str() {
            SEED_PARTITION => {
                ensure!(
                    source.seed.len() as u64 <= length,
                    "the seed has {} bytes, and its partition only {length}",
                    source.seed.len()
                );
                Content::Bytes(match sector {
                    SECTOR => source.seed.clone(),
                    _ => fat::rebuild(Cursor::new(source.seed.clone()), length, sector)
                        .with_context(doing)?,
                })
            }
            ESP_PARTITION if sector != SECTOR => {
                let part = fat::Part {
                    file: &source.image,
                    start: at,
                    length,
                    at: 0,
                };
                Content::Bytes(fat::rebuild(part, length, sector).with_context(doing)?)
            }
            _ => Content::Image,
        };
        pieces.push(Piece {
            at,
            length,
            content,
        });
        position = at + length;
    }
    pieces.push(zeros(position, MIB));
    pieces.retain(|piece| piece.length > 0);
    Ok(pieces)
}

/// How many bytes the pieces have.
pub(super) fn total(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.length).sum()
}

/// Calls `each` with the place and the bytes of every chunk. Another thread reads ahead, so that
/// the image's disk and the target work at the same time.
pub(super) fn for_each_chunk(
    pieces: &[Piece],
    image: &File,
    mut each: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let (send, receive) = sync_channel(4);
        scope.spawn(move || {
            for piece in pieces {
                let mut done = 0;
                while done < piece.length {
                    let length = CHUNK.min((piece.length - done) as usize);
                    let chunk = piece.read(image, done, length);
                    let failed = chunk.is_err();
                    // The channel has no receiver after an error of the target.
                    if send.send((piece.at + done, chunk)).is_err() || failed {
                        return;
                    }
                    done += length as u64;
                }
            }
        });
        for (at, chunk) in receive {
            each(at, chunk?.bytes())?;
        }
        Ok(())
    })
}

impl Piece {
    fn read(&self, image: &File, done: u64, length: usize) -> Result<Buffer> {
        let mut buffer = Buffer::zeros(length);
        match &self.content {
            Content::Image => image
                .read_exact_at(buffer.bytes_mut(), self.at + done)
                .context("reading the image")?,
            Content::Bytes(bytes) => {
                let rest = bytes.get(done as usize..).unwrap_or_default();
                let count = rest.len().min(length);
                buffer.bytes_mut()[..count].copy_from_slice(&rest[..count]);
            }
        }
        Ok(buffer)
    }
}

/// Memory for direct input and output.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    pub(super) fn zeros(length: usize) -> Self {
        let memory = vec![0; length + ALIGNMENT];
        Self {
            start: memory.as_ptr().align_offset(ALIGNMENT),
            memory,
            length,
        }
    }

    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeros(bytes.len());
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}
