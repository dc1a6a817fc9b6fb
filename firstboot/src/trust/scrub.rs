//! Removes the secrets from a seed once this machine keeps its document itself.
//!
//! On vfat the file is overwritten in place and cut to a mark. ISO 9660 cannot be written, so that
//! the file's bytes are overwritten on the device below it. A flash disk may keep old blocks.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use userdata::node_config::SeedPolicy;
use userdata::signature::SCRUBBED_MARK;

use super::record::Record;
use crate::report::Reporter;
use crate::source::Seed;
use crate::source::disk::Mounted;
use crate::source::superblock;
use crate::status::DocumentStatus;
use crate::system::files::Root;

/// Files of ISO 9660 begin at a sector.
const SECTOR: usize = 2048;

/// No image of a seed comes near this size.
const DEVICE_LIMIT: u64 = 256 << 20;

/// What became of the secrets of one seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Scrubbed,
    ReadOnly,
    /// The seed is on no disk.
    NotOnDisk,
}

impl Outcome {
    /// What became of the secrets of the seed `origin`.
    pub fn describe(&self, origin: &str) -> String {
        match self {
            Self::Scrubbed => format!("the secrets are removed from {origin}"),
            Self::ReadOnly => {
                format!(
                    "{origin} is read-only and still has the secrets of this host: take it away"
                )
            }
            Self::NotOnDisk => {
                format!("the secrets of this host remain where the document came from ({origin})")
            }
        }
    }
}

/// Whether these are the remains of a scrubbed seed. After a power cut secrets may be behind them.
pub fn is_scrubbed(seed: &Seed) -> bool {
    seed.user_data.starts_with(SCRUBBED_MARK.as_bytes())
}

/// Whether nothing is left to do.
fn is_done(seed: &Seed) -> bool {
    let rest = seed.user_data.strip_prefix(SCRUBBED_MARK.as_bytes());
    rest.is_some_and(|rest| rest.iter().all(|byte| *byte == b'\n'))
}

/// Overwrites the `user-data` of this seed.
pub fn scrub(root: &Root, seed: &Seed) -> Result<Outcome> {
    if is_done(seed) {
        return Ok(Outcome::Scrubbed);
    }
    let Some((device, folder)) = place(&seed.origin) else {
        return Ok(Outcome::NotOnDisk);
    };
    if is_read_only(root, &device)? {
        return Ok(Outcome::ReadOnly);
    }
    let doing = || format!("removing the secrets from `{}`", device.display());
    let mut file = File::open(&device).with_context(doing)?;
    let Some(system) = superblock::probe(&mut file).with_context(doing)? else {
        bail!("`{}` has no seed any more", device.display());
    };
    drop(file);
    if system.kind == "vfat" {
        let mounted = Mounted::writable(&device, system.kind)?;
        let path = mounted.path().join(folder).join("user-data");
        overwrite_file(&path).with_context(doing)?;
    } else {
        overwrite_device(&device, &seed.user_data).with_context(doing)?;
    }
    Ok(Outcome::Scrubbed)
}

/// Removes the secrets from the seeds that have the document of a host with a role. Plain
/// cloud-configs stay: other machines may share them.
pub fn copies(
    root: &Root,
    record: &mut Record,
    policy: SeedPolicy,
    copies: &[Seed],
    report: &mut Reporter,
) -> Result<()> {
    for seed in copies {
        let origin = &seed.origin;
        let text = match (policy, root.is_machine()) {
            (SeedPolicy::Keep, _) => format!("{origin} keeps its secrets (`seed: keep`)"),
            (SeedPolicy::Scrub, false) => continue,
            (SeedPolicy::Scrub, true) => match scrub(root, seed) {
                Ok(outcome) => outcome.describe(origin),
                Err(error) => format!("{origin} still has the secrets of this host: {error:#}"),
            },
        };
        log::info!("{text}");
        record.secrets = Some(text);
    }
    record.save(root)?;
    report.document_kept(DocumentStatus::of(record));
    Ok(())
}

/// The device and the folder on it: `/dev/vdb` and `hosts/m0`.
fn place(origin: &str) -> Option<(PathBuf, PathBuf)> {
    let path = Path::new(origin);
    let device = path
        .ancestors()
        .find(|path| fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device()))?;
    let folder = path.strip_prefix(device).ok()?.to_owned();
    Some((device.to_owned(), folder))
}

fn is_read_only(root: &Root, device: &Path) -> Result<bool> {
    let name = device
        .strip_prefix("/dev")
        .unwrap_or(device)
        .display()
        .to_string()
        .replace('/', "!");
    let text = root.read(format!("/sys/class/block/{name}/ro"))?;
    Ok(text.is_some_and(|text| text.trim_ascii() == b"1"))
}

/// The mark comes first: after a power cut the file shows that more is to be done.
fn overwrite_file(path: &Path) -> Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    ensure!(meta.is_file(), "`{}` is not a file", path.display());
    let mark = SCRUBBED_MARK.as_bytes();
    file.write_all_at(mark, 0)?;
    file.sync_all()?;
    let rest = vec![b'\n'; SECTOR];
    let mut at = mark.len() as u64;
    while at < meta.len() {
        let count = rest.len().min(usize::try_from(meta.len() - at)?);
        file.write_all_at(&rest[..count], at)?;
        at += count as u64;
    }
    // Before the file is cut, so that the blocks of the secrets are the ones that are overwritten.
    file.sync_all()?;
    file.set_len(mark.len() as u64)?;
    file.sync_all()?;
    Ok(())
}

/// Overwrites each place where the bytes are, at the begin of a sector.
fn overwrite_device(path: &Path, bytes: &[u8]) -> Result<()> {
    ensure!(!bytes.is_empty(), "there is nothing to overwrite");
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    ensure!(
        size <= DEVICE_LIMIT,
        "it is larger than {} MiB, so that it is not searched; write the seed to a vfat disk",
        DEVICE_LIMIT >> 20
    );
    file.seek(SeekFrom::Start(0))?;
    let mut all = Vec::with_capacity(usize::try_from(size)?);
    file.read_to_end(&mut all)?;
    let places: Vec<usize> = (0..all.len())
        .step_by(SECTOR)
        .filter(|at| all[*at..].starts_with(bytes))
        .collect();
    ensure!(!places.is_empty(), "its `user-data` is not found on it");
    let mut blank = vec![b'\n'; bytes.len()];
    let mark = SCRUBBED_MARK.as_bytes();
    let count = mark.len().min(blank.len());
    blank[..count].copy_from_slice(&mark[..count]);
    for at in places {
        file.write_all_at(&blank, at as u64)?;
    }
    file.sync_all()?;
    Ok(())
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "a test arranges files as it likes"
)]
mod tests {
    use super::*;

    fn seed(user_data: &[u8]) -> Seed {
        Seed {
            origin: "/dev/null".to_owned(),
            user_data: user_data.to_vec(),
            meta_data: Vec::new(),
            network_config: None,
            vendor_data: None,
        }
    }

    #[test]
    fn file_keeps_its_mark_only_and_its_old_bytes_are_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("user-data");
        fs::write(&path, "secret ".repeat(2000)).unwrap();
        overwrite_file(&path).unwrap();
        let left = fs::read(&path).unwrap();
        assert_eq!(left, SCRUBBED_MARK.as_bytes());
        assert!(is_done(&seed(&left)));
    }

    #[test]
    fn torn_scrub_is_seen_and_not_done() {
        let torn = format!("{SCRUBBED_MARK}secret");
        assert!(is_scrubbed(&seed(torn.as_bytes())) && !is_done(&seed(torn.as_bytes())));
    }

    #[test]
    fn device_loses_the_bytes_at_every_place_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("iso");
        let secret = b"secret ".repeat(700);
        let mut image = vec![b'x'; SECTOR * 20];
        for sector in [3, 10] {
            image[sector * SECTOR..sector * SECTOR + secret.len()].copy_from_slice(&secret);
        }
        fs::write(&path, &image).unwrap();
        overwrite_device(&path, &secret).unwrap();
        let left = fs::read(&path).unwrap();
        let found = left.windows(6).filter(|bytes| bytes == b"secret").count();
        assert_eq!((found, left.len()), (0, image.len()));
        let kept = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'x').count();
        assert_eq!(kept(&left), kept(&image));
        assert!(is_done(&seed(&left[3 * SECTOR..3 * SECTOR + secret.len()])));
        // A torn scrub is found by what is left.
        let torn = [SCRUBBED_MARK.as_bytes(), &secret[SCRUBBED_MARK.len()..]].concat();
        image[3 * SECTOR..3 * SECTOR + torn.len()].copy_from_slice(&torn);
        fs::write(&path, &image).unwrap();
        overwrite_device(&path, &torn).unwrap();
        assert!(overwrite_device(&path, &torn).is_err());
    }

    #[test]
    fn seed_on_no_disk_is_left_alone() {
        let root = Root::new("/");
        let outcome = scrub(&root, &seed(b"secret")).unwrap();
        assert_eq!(outcome, Outcome::NotOnDisk);
    }
}
