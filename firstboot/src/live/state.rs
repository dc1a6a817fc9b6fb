//! Where a machine without a root disk has its state: a disk that has it already, the only blank
//! disk if the topology allows it, else memory.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use userdata::contract::STATE_PARTITION;

use super::{Record, Settings, State, memory, say};
use crate::sealed::header;
use crate::system::files::Root;
use crate::system::{command, disks};

const SYSROOT: &str = "/sysroot";
/// `sysroot-var.mount` mounts this.
const LINK: &str = "/run/firstlight/state";
/// State that is in memory: a file system in a file on a tmpfs, as on a disk.
const MEMORY: &str = "/run/firstlight/memory";
const MEMORY_LEAST_MIB: u64 = 512;
const TEMPLATE: &str = "/sysroot/usr/share/firstlight/state";
/// Partition tables and signatures of earlier uses lie at both ends of a disk.
const END: usize = 1 << 20;

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// A partition.
    Ours(String),
    /// A disk.
    Blank(String),
    /// Memory, with the reason.
    Memory(String),
}

/// `firstboot prepare-state`
pub fn prepare(root: &Root) -> Result<()> {
    let settings = Settings::require(root)?;
    let (device, state) = match choose(root, settings.blank_disk)? {
        Choice::Ours(device) => {
            ensure!(
                header::read(&node(&device))?.is_none(),
                "the state on {device} is encrypted and opens only if the machine boots from that \
                 disk: do that, or detach it"
            );
            (device.clone(), State::Disk { device })
        }
        Choice::Blank(disk) => {
            say(&format!("making the state partition on /dev/{disk}"));
            let node = node(&disk);
            let root_option = format!("--root={SYSROOT}");
            let shown = node.to_string_lossy();
            let arguments = ["--dry-run=no", &root_option, "--empty=require", &shown];
            command::run("systemd-repart", &arguments)?;
            let made = states_on(root, &disk)?;
            ensure!(
                made.len() == 1,
                "systemd-repart made no partition named `{STATE_PARTITION}` on /dev/{disk}"
            );
            let device = made[0].clone();
            (device.clone(), State::Disk { device })
        }
        Choice::Memory(reason) => in_memory(root, reason)?,
    };
    let link = root.join(LINK);
    root.remove(LINK)?;
    symlink(node(&device), &link).with_context(|| format!("creating `{}`", link.display()))?;
    let mut record = Record::read(root)?.unwrap_or_default();
    record.state = Some(state);
    say(&record.note());
    record.write(root)
}

fn node(device: &str) -> PathBuf {
    Path::new("/dev").join(device.replace('!', "/"))
}

fn choose(root: &Root, blank_allowed: bool) -> Result<Choice> {
    let disks = disks::disks(root)?;
    let mut states = Vec::new();
    let mut blank = Vec::new();
    for disk in &disks {
        // A disk without such a table has none; one that cannot be read is not blank either.
        states.extend(states_on(root, disk).unwrap_or_default());
        if is_blank(root, disk).unwrap_or(false) {
            blank.push(disk.clone());
        }
    }
    match states.len() {
        0 => {}
        1 => return Ok(Choice::Ours(states.remove(0))),
        count => bail!(
            "{count} partitions named `{STATE_PARTITION}` are attached: {}; detach all but the one \
             of this machine",
            states.join(", ")
        ),
    }
    let reason = match (disks.len(), blank.len()) {
        (0, _) => "no disk is attached".to_owned(),
        (_, 0) => format!(
            "none of the disks {} is blank or has state of ours; wipe one with `wipefs --all` and \
             zeros in its first and last MiB",
            disks.join(", ")
        ),
        (_, 1) if blank_allowed => return Ok(Choice::Blank(blank.remove(0))),
        (_, 1) => format!(
            "the topology does not allow to use the blank disk {} (`image.diskless.blank_disks`)",
            blank[0]
        ),
        (_, _) => format!(
            "several disks are blank ({}), and nothing distinguishes them; attach one",
            blank.join(", ")
        ),
    };
    Ok(Choice::Memory(reason))
}

/// The state partitions of a disk.
fn states_on(root: &Root, disk: &str) -> Result<Vec<String>> {
    let partitions = disks::partitions(root, disk)?.into_iter();
    let ours = partitions.filter(|partition| partition.name == STATE_PARTITION);
    Ok(ours.map(|partition| partition.device).collect())
}

/// Whether both ends of a disk, which can be written, are zeros.
fn is_blank(root: &Root, disk: &str) -> Result<bool> {
    let read = |file: &str| root.read(format!("/sys/class/block/{disk}/{file}"));
    let text = |bytes: Option<Vec<u8>>| {
        String::from_utf8_lossy(&bytes.unwrap_or_default())
            .trim()
            .to_owned()
    };
    if text(read("ro")?) == "1" || disk.starts_with("sr") || disk.starts_with("fd") {
        return Ok(false);
    }
    // sysfs counts in 512 bytes, whatever the sectors are.
    let size = text(read("size")?).parse::<u64>().unwrap_or(0) * 512;
    if size < 4 * END as u64 {
        return Ok(false);
    }
    let path = root.join(node(disk));
    let file = File::open(&path).with_context(|| format!("opening `{}`", path.display()))?;
    let mut bytes = vec![0; END];
    for at in [0, size - END as u64] {
        file.read_exact_at(&mut bytes, at)
            .with_context(|| format!("reading `{}`", path.display()))?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes state in half of the memory; returns the loop device.
fn in_memory(root: &Root, reason: String) -> Result<(String, State)> {
    let (total, free) = memory(root)?;
    let mib = (total / 2).min(free.saturating_sub(total / 8));
    ensure!(
        mib >= MEMORY_LEAST_MIB,
        "state must be in memory, because {reason}; of {total} MiB only {free} MiB are free, and \
         state needs {MEMORY_LEAST_MIB} MiB besides an eighth of all: add memory or a disk"
    );
    fs::create_dir_all(MEMORY).with_context(|| format!("creating `{MEMORY}`"))?;
    let options = format!("size={}M,mode=0700", mib + mib / 50);
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let tmpfs = Some("tmpfs");
    mount(tmpfs, MEMORY, tmpfs, flags, Some(options.as_str()))
        .with_context(|| format!("mounting `{MEMORY}`"))?;
    let path = format!("{MEMORY}/state");
    File::create(&path)
        .and_then(|file| file.set_len(mib << 20))
        .with_context(|| format!("creating `{path}`"))?;
    // No journal: nothing of it outlives a power cut.
    let label = ["-q", "-L", STATE_PARTITION, "-O", "^has_journal"];
    let arguments = [&label[..], &["-d", TEMPLATE, &path]].concat();
    command::run("mkfs.ext4", &arguments)?;
    // Direct, so that blocks are not in memory twice.
    let name = "firstlight-state";
    let arguments = ["--find", "--direct-io=on", "--loop-ref", name, &path];
    command::run("losetup", &arguments)?;
    let device = loop_of(root, &path)?;
    Ok((device, State::Memory { mib, reason }))
}

/// The loop device of a file.
fn loop_of(root: &Root, path: &str) -> Result<String> {
    for name in root.list("/sys/class/block")? {
        let file = root.read(format!("/sys/class/block/{name}/loop/backing_file"))?;
        if file.is_some_and(|file| String::from_utf8_lossy(&file).trim() == path) {
            return Ok(name);
        }
    }
    bail!("losetup made no loop device of `{path}`")
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
