//! Root, hash tree and EFI program out of a disk image, so that a boot over the network runs what
//! a disk of that image runs.

use std::fs::File;
use std::io::{Cursor, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use fatfs::{FileSystem, FsOptions};
use gpt::GptConfig;
use userdata::contract::{ESP_PARTITION, ROOT_PARTITION, VERITY_PARTITION};

use super::live;

/// The image's sectors, and the blocks of dm-verity.
const SECTOR: u64 = 512;
const BLOCK: u64 = 4096;
/// Digests of SHA-256 in a block of the hash tree.
const DIGESTS: u64 = BLOCK / 32;

/// Writes root, hash tree and EFI program of the disk image `raw` to the folder `out`.
pub fn write(raw: &Path, out: &Path) -> Result<()> {
    let doing = || format!("reading `{}`", raw.display());
    let image = File::open(raw).with_context(doing)?;
    let table = GptConfig::new()
        .open_from_device(&image)
        .with_context(doing)?
        .take_partitions();
    let slot = |name: &str| -> Result<(u64, u64)> {
        let mut entries = table.values();
        let entry = entries.find(|entry| entry.name == name);
        let entry =
            entry.with_context(|| format!("`{}` has no partition `{name}`", raw.display()))?;
        let start = entry.first_lba * SECTOR;
        Ok((start, (entry.last_lba + 1) * SECTOR - start))
    };
    let (tree, tree_slot) = slot(VERITY_PARTITION)?;
    let (root, root_slot) = slot(ROOT_PARTITION)?;
    let blocks = data_blocks(&image, tree).with_context(doing)?;
    let sizes = (blocks * BLOCK, tree_blocks(blocks) * BLOCK);
    ensure!(
        sizes.0 <= root_slot && sizes.1 <= tree_slot,
        "the hash tree of `{}` is damaged",
        raw.display()
    );
    copy(&image, root, sizes.0, &out.join(live::ROOT))?;
    copy(&image, tree, sizes.1, &out.join(live::TREE))?;
    let (esp, length) = slot(ESP_PARTITION)?;
    let mut volume = vec![0; usize::try_from(length).context("an ESP larger than memory")?];
    image.read_exact_at(&mut volume, esp).with_context(doing)?;
    let volume = FileSystem::new(Cursor::new(volume), FsOptions::new()).with_context(doing)?;
    let mut bytes = Vec::new();
    let program = volume.root_dir().open_file("EFI/BOOT/BOOTX64.EFI");
    program
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .with_context(doing)?;
    let path = out.join(live::DISK);
    std::fs::write(&path, bytes).with_context(|| format!("writing `{}`", path.display()))
}

/// The size of the data below the hash tree at `start`, from its superblock.
fn data_blocks(image: &File, start: u64) -> Result<u64> {
    let mut block = [0; 512];
    image.read_exact_at(&mut block, start)?;
    let number = |at: usize, length: usize| {
        let bytes = block[at..at + length].iter().rev();
        bytes.fold(0, |value, byte| (value << 8) | u64::from(*byte))
    };
    // cryptsetup's `struct verity_sb`.
    let expected = block.starts_with(b"verity\0\0") && number(64, 4) == BLOCK;
    ensure!(
        expected && number(68, 4) == BLOCK && number(72, 8) < 1 << 40,
        "there is no hash tree with blocks of {BLOCK} bytes"
    );
    Ok(number(72, 8))
}

/// Blocks of a hash tree with its superblock, over `data` blocks.
fn tree_blocks(data: u64) -> u64 {
    let (mut level, mut total) = (data, 1);
    while level > 1 {
        level = level.div_ceil(DIGESTS);
        total += level;
    }
    total
}

fn copy(image: &File, start: u64, length: u64, out: &Path) -> Result<()> {
    let doing = || format!("writing `{}`", out.display());
    let mut file = File::create_new(out).with_context(doing)?;
    let mut buffer = vec![0; 4 << 20];
    let mut done = 0;
    while done < length {
        let left = usize::try_from(length - done).unwrap_or(usize::MAX);
        let part = left.min(buffer.len());
        image
            .read_exact_at(&mut buffer[..part], start + done)
            .with_context(doing)?;
        file.write_all(&buffer[..part]).with_context(doing)?;
        done += part as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_has_a_superblock_and_every_level() {
        // As `veritysetup format` makes them.
        for (data, blocks) in [(2, 2), (128, 2), (129, 4), (128 * 128, 130), (16_385, 133)] {
            assert_eq!(tree_blocks(data), blocks, "{data}");
        }
    }
}
