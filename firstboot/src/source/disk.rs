//! Block devices that carry a document: a disk labelled `cidata`, OpenStack's config drive, and the
//! image's own seed partition.
//!
//! Devices come from sysfs and are recognised by their superblocks, so nothing depends on udev's
//! links.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use userdata::contract::{SEED_LABEL, SEED_PARTITION};

use super::superblock::{FileSystem, probe};
use super::{Source, SourceResult, directory, openstack, without_remains};
use crate::system::disks;
use crate::system::files::Root;
use crate::system::machine::Identity;

/// Label of OpenStack's config drive.
const CONFIG_DRIVE: &str = "config-2";

/// Below a folder that only root may enter: ISO 9660 says who may read its files.
const MOUNT_POINT: &str = "/run/firstlight/seed/mounted";

/// mount(2); nix has the flag for FreeBSD only.
const MS_NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(256);

/// A disk or partition labelled `cidata`, in any case, that is not a node image's seed partition.
#[derive(Debug)]
pub struct LabelledDisk;

/// A disk or partition labelled `config-2`, in any case: OpenStack's config drive.
#[derive(Debug)]
pub struct ConfigDrive;

/// The seed partition of the image.
#[derive(Debug)]
pub struct SeedPartition;

/// A block device as sysfs shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    /// As sysfs names it.
    name: String,
    node: PathBuf,
    /// GPT name.
    partition_name: Option<String>,
}

impl Source for LabelledDisk {
    fn name(&self) -> &'static str {
        "cidata"
    }

    fn read(&self, machine: &Identity) -> Result<SourceResult> {
        only(SEED_LABEL, self.read_each(machine))
    }

    fn read_each(&self, machine: &Identity) -> Vec<Result<SourceResult>> {
        read_labelled(SEED_LABEL, &|folder, origin| {
            directory::read(folder, origin, machine)
        })
    }
}

impl Source for ConfigDrive {
    fn name(&self) -> &'static str {
        "config-drive"
    }

    fn read(&self, machine: &Identity) -> Result<SourceResult> {
        only(CONFIG_DRIVE, self.read_each(machine))
    }

    fn read_each(&self, machine: &Identity) -> Vec<Result<SourceResult>> {
        read_labelled(CONFIG_DRIVE, &|folder, origin| {
            openstack::drive(folder, origin, machine)
        })
    }
}

/// Reads a mounted file system, which messages call by the second argument.
type Reader<'a> = dyn Fn(&Path, &str) -> Result<SourceResult> + 'a;

/// Reads every device with this label.
fn read_labelled(label: &str, read: &Reader<'_>) -> Vec<Result<SourceResult>> {
    let devices = match devices(&Root::new("/")) {
        Ok(devices) => devices,
        Err(error) => return vec![Err(error)],
    };
    let mut results = Vec::new();
    for device in devices {
        if device.partition_name.as_deref() == Some(SEED_PARTITION) {
            continue;
        }
        // A drive without a medium cannot be opened.
        let Some(system) = File::open(&device.node)
            .ok()
            .and_then(|mut file| probe(&mut file).ok().flatten())
        else {
            continue;
        };
        if system.label.eq_ignore_ascii_case(label) {
            results.push(read_device(&device.node, &system, read));
        }
    }
    results
}

/// The one document of these. More than one for this machine is an error, because which one wins
/// would depend on the order in which the kernel found the devices.
fn only(label: &str, results: Vec<Result<SourceResult>>) -> Result<SourceResult> {
    let (mut found, mut reasons) = (Vec::new(), Vec::new());
    for result in results {
        match without_remains(result?) {
            SourceResult::Found(seed) => found.push(seed),
            SourceResult::NotFound(reason) => reasons.push(reason),
        }
    }
    match found.len() {
        0 if reasons.is_empty() => Ok(SourceResult::NotFound(format!(
            "no disk is labelled `{label}`"
        ))),
        0 => Ok(SourceResult::NotFound(reasons.join("; "))),
        1 => Ok(SourceResult::Found(found.remove(0))),
        _ => {
            let origins: Vec<_> = found.into_iter().map(|seed| seed.origin).collect();
            bail!(
                "more than one disk has a document for this machine: {}; remove all but one",
                origins.join(", ")
            )
        }
    }
}

impl Source for SeedPartition {
    fn name(&self) -> &'static str {
        "seed-partition"
    }

    fn read(&self, machine: &Identity) -> Result<SourceResult> {
        let named = |device: &Device| device.partition_name.as_deref() == Some(SEED_PARTITION);
        let root = Root::new("/");
        let mut candidates: Vec<_> = devices(&root)?.into_iter().filter(named).collect();
        if candidates.len() > 1 {
            // Another node's disk may be attached too: use the one on the disk that runs.
            let disk_of = |device: &str| disks::disk_of(&root, device);
            let below = disks::below(&root, "/usr")?;
            let boot: Vec<_> = below.iter().filter_map(|one| disk_of(one)).collect();
            candidates
                .retain(|device| disk_of(&device.name).is_some_and(|disk| boot.contains(&disk)));
            ensure!(
                candidates.len() == 1,
                "several partitions are named `{SEED_PARTITION}`, and the boot disk is unknown"
            );
        }
        let Some(device) = candidates.pop() else {
            return Ok(SourceResult::NotFound(format!(
                "no partition is named `{SEED_PARTITION}`"
            )));
        };
        let mut file = File::open(&device.node)
            .with_context(|| format!("opening `{}`", device.node.display()))?;
        let Some(system) =
            probe(&mut file).with_context(|| format!("reading `{}`", device.node.display()))?
        else {
            bail!(
                "`{}` is not a vfat or ISO 9660 file system; was the seed written to the wrong place?",
                device.node.display()
            );
        };
        drop(file);
        let read = |folder: &Path, origin: &str| directory::read(folder, origin, machine);
        read_device(&device.node, &system, &read)
    }
}

fn read_device(node: &Path, system: &FileSystem, read: &Reader<'_>) -> Result<SourceResult> {
    let mounted = Mounted::new(node, system.kind)?;
    read(mounted.path(), &node.display().to_string())
}

/// Mounted for as long as this lives.
#[derive(Debug)]
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    fn new(node: &Path, kind: &str) -> Result<Self> {
        Self::with(node, kind, MsFlags::MS_RDONLY)
    }

    /// For writing.
    pub(crate) fn writable(node: &Path, kind: &str) -> Result<Self> {
        Self::with(node, kind, MsFlags::MS_SYNCHRONOUS)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn with(node: &Path, kind: &str, flags: MsFlags) -> Result<Self> {
        let point = PathBuf::from(MOUNT_POINT);
        fs::create_dir_all(&point).with_context(|| format!("creating `{}`", point.display()))?;
        let private = point.parent().unwrap_or(&point);
        fs::set_permissions(private, Permissions::from_mode(0o700))
            .with_context(|| format!("changing the mode of `{}`", private.display()))?;
        // The medium is not trusted: it may hold device nodes, set-uid programs, and links to files
        // of this machine.
        let flags =
            flags | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MS_NOSYMFOLLOW;
        // vfat has no owners and modes.
        let options = (kind == "vfat").then_some("umask=0077");
        mount(Some(node), &point, Some(kind), flags, options)
            .with_context(|| format!("mounting `{}` as {kind}", node.display()))?;
        Ok(Self(point))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            log::warn!(
                "unmounting `{}`: {error}, leaving it mounted",
                self.0.display()
            );
        }
    }
}

/// All block devices with content, the last name first, as cloud-init orders them.
fn devices(root: &Root) -> Result<Vec<Device>> {
    let mut found = Vec::new();
    for name in root.list("/sys/class/block")?.into_iter().rev() {
        let base = format!("/sys/class/block/{name}");
        let size = root.read(format!("{base}/size"))?.unwrap_or_default();
        if size.trim_ascii() == b"0"
            || ["loop", "ram", "zram", "dm-"]
                .iter()
                .any(|kind| name.starts_with(kind))
        {
            continue;
        }
        let uevent =
            String::from_utf8_lossy(&root.read(format!("{base}/uevent"))?.unwrap_or_default())
                .into_owned();
        let partition_name = uevent
            .lines()
            .find_map(|line| line.strip_prefix("PARTNAME="))
            .map(str::to_owned);
        // sysfs writes `!` where the node has a directory.
        found.push(Device {
            node: Path::new("/dev").join(name.replace('!', "/")),
            name,
            partition_name,
        });
    }
    Ok(found)
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "a test arranges files as it likes"
)]
mod tests {
    use super::*;

    #[test]
    fn devices_come_from_sysfs_with_their_partition_names() {
        let dir = tempfile::tempdir().unwrap();
        let device = |name: &str, size: &str, uevent: &str| {
            let base = dir.path().join("sys/class/block").join(name);
            fs::create_dir_all(&base).unwrap();
            fs::write(base.join("size"), size).unwrap();
            fs::write(base.join("uevent"), uevent).unwrap();
        };
        device("vda", "100\n", "DEVTYPE=disk\n");
        device(
            "vda4",
            "10\n",
            "DEVTYPE=partition\nPARTNAME=firstlight-seed\n",
        );
        device("sr0", "0\n", "DEVTYPE=disk\n");
        device("loop0", "8\n", "DEVTYPE=disk\n");
        device("cciss!c0d0", "8\n", "DEVTYPE=disk\n");
        let found = devices(&Root::new(dir.path())).unwrap();
        let seen: Vec<_> = found
            .iter()
            .map(|d| (d.node.to_str().unwrap(), d.partition_name.as_deref()))
            .collect();
        assert_eq!(
            seen,
            [
                ("/dev/vda4", Some("firstlight-seed")),
                ("/dev/vda", None),
                ("/dev/cciss/c0d0", None)
            ]
        );
    }
}
