//! The disk image: partition table, ESP, root and hash tree, seed. A sparse file to flash or to
//! boot.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Cursor, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{OperatingSystem, Type};
use userdata::contract;
use uuid::{Uuid, uuid};

use super::vfat::SECTOR;
use super::{verity, vfat};

const MIB: u64 = 1 << 20;

/// Two of the largest kernels: the running one and an update. Large enough for FAT32, which UEFI
/// wants on fixed disks, with sectors of 512 and of 4,096 bytes.
const ESP_SIZE: u64 = 512 * MIB;
/// The least, and what it grows by for the documents of many hosts.
const SEED_SIZE: u64 = 16 * MIB;
/// Free space after root in its slot, so that a later image can be larger.
const SLOT_HEADROOM: u64 = 256 * MIB;

/// Free space behind the partitions: the least that systemd-repart makes a state partition of. So
/// the image boots on a disk of its own size, and virtual machines boot it as it is.
pub(crate) const STATE_MIN: u64 = 2 << 30;

const ESP_TYPE: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
/// Discoverable Partitions Specification: root and its verity tree on x86-64.
const ROOT_TYPE: Uuid = uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709");
const VERITY_TYPE: Uuid = uuid!("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5");
/// Microsoft basic data, the type that other systems expect of a FAT volume.
const SEED_TYPE: Uuid = uuid!("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7");

/// The contents of the disk.
#[derive(Debug)]
pub struct Parts<'a> {
    pub uki: &'a Path,
    pub root: &'a Path,
    pub verity: &'a Path,
    pub root_hash: &'a str,
    /// Files of the seed partition; none if every host gets its document from elsewhere.
    pub seed: &'a [(&'a str, &'a [u8])],
}

struct Slot<'a> {
    name: &'a str,
    kind: Uuid,
    id: Uuid,
    size: u64,
    read_only: bool,
}

/// Writes the disk image to `out`, which must not exist.
pub fn write(parts: &Parts<'_>, out: &Path) -> Result<()> {
    let size_of = |path: &Path| -> Result<u64> {
        Ok(path
            .metadata()
            .with_context(|| format!("reading `{}`", path.display()))?
            .len())
    };
    let (root_id, verity_id) = verity::partition_ids(parts.root_hash)?;
    let root_slot = (size_of(parts.root)? + SLOT_HEADROOM).next_multiple_of(64 * MIB);
    // A hash tree is 1/127 of its data and a superblock.
    let verity_slot = (size_of(parts.verity)?.max(root_slot / 100)).next_multiple_of(MIB);
    let seed_size = seed_size(parts.seed);
    let id = |purpose: &str| verity::id(purpose, parts.root_hash.as_bytes());
    let slot = |name, kind, id, size, read_only| Slot {
        name,
        kind,
        id,
        size,
        read_only,
    };
    let slots = [
        slot(
            contract::ESP_PARTITION,
            ESP_TYPE,
            id("esp"),
            ESP_SIZE,
            false,
        ),
        slot(
            contract::ROOT_PARTITION,
            ROOT_TYPE,
            root_id,
            root_slot,
            true,
        ),
        slot(
            contract::VERITY_PARTITION,
            VERITY_TYPE,
            verity_id,
            verity_slot,
            true,
        ),
        // systemd-sysupdate treats a partition of this name as free for the next version.
        slot("_empty", ROOT_TYPE, id("root-b"), root_slot, true),
        slot("_empty", VERITY_TYPE, id("verity-b"), verity_slot, true),
        slot(
            contract::SEED_PARTITION,
            SEED_TYPE,
            id("seed"),
            seed_size,
            false,
        ),
    ];

    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        // Documents have private keys.
        .mode(if parts.seed.is_empty() { 0o666 } else { 0o600 })
        .open(out)
        .with_context(|| format!("creating `{}`", out.display()))?;
    // One MiB before the first partition, one at the end for the second table.
    let total = slots.iter().map(|s| s.size).sum::<u64>() + STATE_MIN + 2 * MIB;
    file.set_len(total)
        .with_context(|| format!("making `{}` {total} bytes long", out.display()))?;

    let mut start = MIB;
    let mut table = BTreeMap::new();
    let mut offsets = Vec::new();
    for (number, slot) in (1..).zip(&slots) {
        table.insert(number, partition(slot, start));
        offsets.push(start);
        start += slot.size;
    }
    write_table(&mut file, total, id("disk"), table)?;

    let uki =
        std::fs::read(parts.uki).with_context(|| format!("reading `{}`", parts.uki.display()))?;
    let esp = fat(
        ESP_SIZE,
        "ESP",
        id("esp"),
        &[("EFI/BOOT/BOOTX64.EFI", &uki)],
    )?;
    copy_bytes(&mut file, offsets[0], &esp)?;
    copy_file(&mut file, offsets[1], parts.root)?;
    copy_file(&mut file, offsets[2], parts.verity)?;
    copy_bytes(
        &mut file,
        offsets[5],
        &fat(seed_size, contract::SEED_LABEL, id("seed"), parts.seed)?,
    )?;
    file.sync_all()
        .with_context(|| format!("syncing `{}`", out.display()))
}

/// Room for the files with their names, in clusters of at most 4 KiB, and for both FATs.
fn seed_size(files: &[(&str, &[u8])]) -> u64 {
    let of_file = |(_, bytes): &(&str, &[u8])| bytes.len() as u64 + 8192;
    let content: u64 = files.iter().map(of_file).sum();
    (content + content / 8 + MIB).next_multiple_of(SEED_SIZE)
}

fn partition(slot: &Slot<'_>, start: u64) -> Partition {
    /// Discoverable Partitions Specification: the partition is mounted read-only.
    const READ_ONLY: u64 = 1 << 60;
    Partition {
        part_type_guid: Type {
            guid: slot.kind,
            os: OperatingSystem::None,
        },
        part_guid: slot.id,
        first_lba: start / SECTOR,
        last_lba: (start + slot.size) / SECTOR - 1,
        flags: if slot.read_only { READ_ONLY } else { 0 },
        name: slot.name.to_owned(),
    }
}

fn write_table(
    file: &mut File,
    total: u64,
    id: Uuid,
    table: BTreeMap<u32, Partition>,
) -> Result<()> {
    protective_mbr(total / SECTOR - 1)
        .overwrite_lba0(file)
        .context("writing the protective MBR")?;
    let mut disk = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(file, Some(id))
        .context("laying out the partition table")?;
    disk.update_partitions(table)
        .context("filling the partition table")?;
    disk.write().context("writing the partition table")?;
    Ok(())
}

/// What a BIOS runs: it says that the disk boots by UEFI only (`assets/bios/boot.S`).
const BIOS_CODE: &[u8] = include_bytes!("../../assets/bios/boot.bin");

/// The first sector of a disk whose last sector is `last`.
pub(crate) fn protective_mbr(last: u64) -> ProtectiveMBR {
    let mut code = [0; 440];
    code[..BIOS_CODE.len()].copy_from_slice(BIOS_CODE);
    let mut mbr = ProtectiveMBR::with_lb_size(u32::try_from(last).unwrap_or(u32::MAX));
    mbr.set_bootcode(code);
    mbr
}

fn fat(size: u64, label: &str, id: Uuid, files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let length = usize::try_from(size).context("a FAT volume larger than memory")?;
    let mut volume = Cursor::new(vec![0; length]);
    vfat::write(&mut volume, size, label, id.as_fields().0, files)?;
    let volume = volume.into_inner();
    ensure!(
        volume.len() == length,
        "the volume `{label}` grew to {} bytes",
        volume.len()
    );
    Ok(volume)
}

fn copy_file(disk: &mut File, offset: u64, source: &Path) -> Result<()> {
    let mut source_file =
        File::open(source).with_context(|| format!("opening `{}`", source.display()))?;
    let mut buffer = vec![0; 4 << 20];
    let mut position = offset;
    loop {
        let got = source_file
            .read(&mut buffer)
            .with_context(|| format!("reading `{}`", source.display()))?;
        if got == 0 {
            return Ok(());
        }
        copy_bytes(disk, position, &buffer[..got])?;
        position += got as u64;
    }
}

/// Writes `bytes` at `offset` and leaves blocks of zeros as holes.
fn copy_bytes(disk: &mut File, offset: u64, bytes: &[u8]) -> Result<()> {
    const BLOCK: usize = 4096;
    for (number, block) in bytes.chunks(BLOCK).enumerate() {
        if block.iter().any(|b| *b != 0) {
            disk.seek(SeekFrom::Start(offset + (number * BLOCK) as u64))
                .and_then(|_| disk.write_all(block))
                .context("writing the disk image")?;
        }
    }
    Ok(())
}

/// The part of the image's key that this module decides.
pub(super) fn recipe() -> String {
    let sizes = (ESP_SIZE, SEED_SIZE, SLOT_HEADROOM, STATE_MIN);
    let types = [ESP_TYPE, ROOT_TYPE, VERITY_TYPE, SEED_TYPE];
    let names = [
        contract::ESP_PARTITION,
        contract::ROOT_PARTITION,
        contract::VERITY_PARTITION,
        contract::SEED_PARTITION,
        contract::SEED_LABEL,
    ];
    format!("{:?}", (sizes, types, names, BIOS_CODE))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// Every machine that links Rust programs has an assembler.
    #[test]
    fn bios_code_is_its_source() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let run = |program: &str, args: &[&str]| -> Result<()> {
            let mut command = std::process::Command::new(program);
            command.current_dir(dir.path()).args(args);
            let status = command
                .status()
                .with_context(|| format!("running {program}"))?;
            ensure!(status.success(), "{program}: {status}");
            Ok(())
        };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/bios/boot.S");
        run("as", &["--32", "-o", "boot.o", source])?;
        let form = ["--output-target=binary", "--only-section=.text"];
        run("objcopy", &[&form[..], &["boot.o", "boot.bin"]].concat())?;
        assert!(std::fs::read(dir.path().join("boot.bin"))? == BIOS_CODE);
        Ok(())
    }

    #[test]
    fn image_has_room_for_state_and_stays_sparse() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let part = dir.path().join("part");
        std::fs::write(&part, vec![0x5a; 8192])?;
        let parts = Parts {
            uki: &part,
            root: &part,
            verity: &part,
            root_hash: &"5a".repeat(32),
            seed: &[],
        };
        let out = dir.path().join("node.raw");
        write(&parts, &out)?;
        let meta = out.metadata()?;
        assert!(meta.blocks() * 512 < 4 * MIB, "{} blocks", meta.blocks());

        let disk = gpt::GptConfig::new().only_valid_headers(true).open(&out)?;
        let backup = disk.primary_header()?.backup_lba;
        assert_eq!(backup, meta.len() / SECTOR - 1, "the second table ends it");
        let conf = include_str!("../../assets/root/state.repart.conf");
        let wanted = conf
            .lines()
            .find_map(|line| line.strip_prefix("SizeMinBytes="));
        let wanted = crate::flash::parse_size(wanted.unwrap()).unwrap();
        let last = disk.partitions().values().map(|part| part.last_lba).max();
        let free = disk.find_free_sectors();
        let behind = free.iter().find(|(start, _)| Some(start - 1) == last);
        // repart aligns partitions to 4 KiB.
        let (_, sectors) = behind.unwrap();
        assert!(sectors * SECTOR >= wanted + 4096, "{sectors} sectors");
        assert_eq!(wanted, STATE_MIN);
        Ok(())
    }
}
