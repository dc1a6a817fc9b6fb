//! Disks: overlays over an image, which itself is never written, and deliberate damage.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gpt::disk::LogicalBlockSize;

use crate::host::Host;
use crate::host::process;
use crate::host::run_dir::RunDir;
use crate::machine::qemu::{DiskFile, DiskFormat, Drive};

/// A disk that starts as `image` and keeps its changes in an overlay, also over several boots.
pub fn overlay(
    host: &Host,
    run_dir: &RunDir,
    name: &str,
    image: &Path,
    format: DiskFormat,
) -> Result<DiskFile> {
    overlay_of_size(host, run_dir, name, image, format, None)
}

/// Like [`overlay`], with a disk of `size` bytes that is larger than the image.
pub fn overlay_of_size(
    host: &Host,
    run_dir: &RunDir,
    name: &str,
    image: &Path,
    format: DiskFormat,
    size: Option<u64>,
) -> Result<DiskFile> {
    let path = run_dir.folder().join(format!("{name}.qcow2"));
    let image =
        fs::canonicalize(image).with_context(|| format!("opening `{}`", image.display()))?;
    let backing = match format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    let mut command = host.tools().command("bin/qemu-img", None);
    command
        .args(["create", "-q", "-f", "qcow2", "-F", backing, "-b"])
        .arg(image)
        .arg(&path);
    command.args(size.map(|size| size.to_string()));
    process::run(&mut command)?;
    Ok(DiskFile {
        path,
        format: DiskFormat::Qcow2,
        read_only: false,
        serial: name.to_string(),
        drive: Drive::default(),
    })
}

/// An empty disk of `size` bytes.
pub fn empty(run_dir: &RunDir, name: &str, size: u64) -> Result<DiskFile> {
    let path = run_dir.folder().join(format!("{name}.raw"));
    let file =
        fs::File::create_new(&path).with_context(|| format!("creating `{}`", path.display()))?;
    file.set_len(size)?;
    Ok(DiskFile {
        path,
        format: DiskFormat::Raw,
        read_only: false,
        serial: name.to_string(),
        drive: Drive::default(),
    })
}

/// A disk of 64 MiB with one partition named `partition`.
pub fn with_partition(run_dir: &RunDir, name: &str, partition: &str) -> Result<DiskFile> {
    const SIZE: u64 = 64 << 20;
    let disk = empty(run_dir, name, SIZE)?;
    let path = &disk.path;
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let sectors = u32::try_from(SIZE / 512 - 1)?;
    gpt::mbr::ProtectiveMBR::with_lb_size(sectors)
        .overwrite_lba0(&mut file)
        .with_context(|| format!("writing the partition table of `{}`", path.display()))?;
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(file, None)?;
    table.add_partition(partition, 32 << 20, gpt::partition_types::LINUX_FS, 0, None)?;
    table
        .write()
        .with_context(|| format!("writing the partition table of `{}`", path.display()))?;
    Ok(disk)
}

/// A seed disk as `imagegen` wrote it; read-only.
pub fn seed(image: &Path) -> DiskFile {
    DiskFile {
        path: image.to_path_buf(),
        format: DiskFormat::Raw,
        read_only: true,
        serial: "seed".into(),
        drive: Drive::default(),
    }
}

/// Copies the overlay of a machine that is off or paused, for other machines to start from. The
/// image below it is not copied.
pub fn save(disk: &DiskFile, to: &Path) -> Result<()> {
    let partial = to.with_extension("making");
    fs::copy(&disk.path, &partial).with_context(|| format!("copying `{}`", disk.path.display()))?;
    fs::rename(&partial, to).with_context(|| format!("publishing `{}`", to.display()))
}

/// Inverts all bits of the byte at `offset` of a raw file.
pub fn flip_byte(path: &Path, offset: u64) -> Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("opening `{}`", path.display()))?;
    let mut byte = [0u8];
    file.read_exact_at(&mut byte, offset)
        .with_context(|| format!("reading byte {offset} of `{}`", path.display()))?;
    file.write_all_at(&[!byte[0]], offset)?;
    Ok(())
}

/// The position of a GPT partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub length: u64,
}

/// The extent in bytes of the partition `name` on a raw disk with 512-byte sectors.
pub fn partition(disk: &Path, name: &str) -> Result<Extent> {
    let table = gpt::GptConfig::new()
        .writable(false)
        .open(disk)
        .with_context(|| format!("reading the partition table of `{}`", disk.display()))?;
    let Some(found) = table
        .partitions()
        .values()
        .find(|partition| partition.name == name)
    else {
        bail!("`{}` has no partition `{name}`", disk.display());
    };
    Ok(Extent {
        offset: found.first_lba * 512,
        length: (found.last_lba - found.first_lba + 1) * 512,
    })
}

/// Copies one partition of a disk image to a file.
pub fn copy_partition(disk: &Path, name: &str, to: &Path) -> Result<()> {
    let extent = partition(disk, name)?;
    let mut file = File::open(disk).with_context(|| format!("opening `{}`", disk.display()))?;
    file.seek(SeekFrom::Start(extent.offset))?;
    std::io::copy(&mut file.take(extent.length), &mut File::create(to)?)
        .with_context(|| format!("writing `{}`", to.display()))?;
    Ok(())
}

/// Converts a raw file to qcow2, because QEMU can save the state of those only.
pub(crate) fn convert_to_qcow2(host: &Host, from: &Path, to: &Path) -> Result<()> {
    let mut command = host.tools().command("bin/qemu-img", None);
    command
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .arg(from)
        .arg(to);
    process::run(&mut command)?;
    Ok(())
}

/// A sparse copy of `image` that a test may damage.
pub fn private_copy(run_dir: &RunDir, name: &str, image: &Path) -> Result<PathBuf> {
    let path = run_dir.folder().join(format!("{name}.raw"));
    // cp supports sparse files and reflinks; std::fs::copy fills the holes.
    process::run(
        std::process::Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .arg(image)
            .arg(&path),
    )?;
    Ok(path)
}

/// Replaces the only occurrence of `old` in a raw file by `new` of the same length. Returns its
/// line number in the text file around it, which begins after the last NUL byte.
pub fn replace_in_file(path: &Path, old: &str, new: &str) -> Result<usize> {
    if old.len() != new.len() {
        bail!("`{new}` and `{old}` differ in length");
    }
    let mut bytes = fs::read(path).with_context(|| format!("reading `{}`", path.display()))?;
    let at: Vec<usize> = bytes
        .windows(old.len())
        .enumerate()
        .filter(|(_, w)| *w == old.as_bytes())
        .map(|(at, _)| at)
        .collect();
    let [at] = at[..] else {
        bail!(
            "`{}` contains `{old}` {} times, not once",
            path.display(),
            at.len()
        )
    };
    let start = bytes[..at]
        .iter()
        .rposition(|&byte| byte == 0)
        .map_or(0, |nul| nul + 1);
    let new_lines = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == b'\n').count();
    // A leading newline of `old` belongs to the line before.
    let line = 1 + new_lines(&bytes[start..at]) + usize::from(old.starts_with('\n'));
    bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    fs::write(path, bytes).with_context(|| format!("writing `{}`", path.display()))?;
    Ok(line)
}
