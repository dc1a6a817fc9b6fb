//! Wipes, writes, syncs and reads back.

use std::fs;

use anyhow::{Context as _, Result};
use build_tools::progress::Progress;

use super::layout::{Table, table};
use super::pieces::{Buffer, CHUNK, Piece, for_each_chunk, pieces, total};
use super::{Kind, MIB, Source, Target};

/// Writes the image and the seed. Success means that they are on the disk and are read from it.
pub fn write(source: &Source, target: &mut Target, progress: &Progress) -> Result<()> {
    // Everything that can fail without the disk comes before the first write.
    let pieces = pieces(source, target.sector())?;
    let table = table(source, target.size(), target.sector())?;
    target.begin()?;
    let Err(error) = fill(source, target, &pieces, &table, progress) else {
        return Ok(());
    };
    let shown = target.path().display();
    if matches!(target.kind(), Kind::File { exists: false }) {
        // A half-made file that did not exist before is of no use.
        return match fs::remove_file(target.path()) {
            Ok(()) => Err(error.context(format!("`{shown}` is removed again"))),
            Err(_) => Err(error.context(format!("`{shown}` is only partly written; remove it"))),
        };
    }
    Err(error.context(format!(
        "`{shown}` is only partly written and does not boot; its old contents are lost"
    )))
}

fn fill(
    source: &Source,
    target: &mut Target,
    pieces: &[Piece],
    table: &Table,
    progress: &Progress,
) -> Result<()> {
    let total = total(pieces);
    let behind = target.size() - MIB;
    // The old table goes first: whatever happens next, nothing boots from a mixture. The last MiB
    // has the old table's second copy and the signatures of arrays.
    let nothing = Buffer::zeros(MIB as usize);
    target.write_at(0, nothing.bytes())?;
    target.write_at(behind, nothing.bytes())?;
    target.sync()?;

    let stage = progress.bytes("writing", total);
    for_each_chunk(pieces, &source.image, |at, bytes| {
        target.write_at(at, bytes)?;
        stage.advance(bytes.len() as u64);
        Ok(())
    })?;
    target.sync()?;
    stage.done();

    let stage = progress.bytes("reading back", total);
    target.drop_cache()?;
    let mut buffer = Buffer::zeros(CHUNK);
    for_each_chunk(pieces, &source.image, |at, bytes| {
        target.compare(at, bytes, &mut buffer)?;
        stage.advance(bytes.len() as u64);
        Ok(())
    })?;
    stage.done();

    // The first copy is last: with it, the disk boots.
    for (at, bytes) in [(behind, &table.back), (0, &table.front)] {
        target.write_at(at, Buffer::of(bytes).bytes())?;
        target.sync().context("writing the partition table")?;
    }
    target.drop_cache()?;
    for (at, bytes) in [(behind, &table.back), (0, &table.front)] {
        target.compare(at, bytes, &mut buffer)?;
    }
    Ok(())
}
