//! The boot medium: an ISO 9660 file system on a virtual or real drive, or on a stick.
//!
//! Found by the root hash in a file, because several media may be there, in any order, and late.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::root::{PARTS, keep, loop_device, room};
use super::{Record, Waiting, document, say};
use crate::source::superblock::probe;
use crate::system::files::Root;

const MOUNT_POINT: &str = "/run/firstlight/medium";

/// On the medium.
const FOLDER: &str = "firstlight";

/// Attaches root and hash tree of the medium with this root hash.
pub(super) fn attach(root: &Root, root_hash: &str) -> Result<Record> {
    let mut waiting = Waiting::new(root_hash);
    let device = loop {
        match find(root, root_hash)? {
            Some(device) => break device,
            None => waiting.pause("no attached medium has the root that this kernel is for"),
        }
    };
    say(&format!("booting from the medium /dev/{device}"));
    let folder = Path::new(MOUNT_POINT).join(FOLDER);
    let mut bytes = 0;
    for (name, _) in PARTS {
        let path = folder.join(name);
        let meta = path.metadata();
        bytes += meta
            .with_context(|| format!("reading `{}`", path.display()))?
            .len();
    }
    // A virtual medium ends with the session of its browser; a root in memory does not.
    let in_memory = room(root, bytes).map_err(|error| {
        say(&format!("{error:#}; the medium must stay attached"));
    });
    for (name, link) in PARTS {
        let mut path = folder.join(name);
        if in_memory.is_ok() {
            path = keep(&path, name)?;
        }
        loop_device(&path, link)?;
    }
    let seeds = folder.join("seed");
    let mut no_document = None;
    if seeds.is_dir() {
        copy_folder(&seeds, &root.join(document::FOLDER))?;
    } else {
        no_document = Some(format!("the medium /dev/{device} has no document"));
    }
    if in_memory.is_ok() {
        umount2(MOUNT_POINT, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmounting `{MOUNT_POINT}`"))?;
    }
    Ok(Record {
        origin: format!("the medium /dev/{device}"),
        no_document,
        state: None,
    })
}

/// Mounts each medium in turn; the right one stays mounted.
fn find(root: &Root, root_hash: &str) -> Result<Option<String>> {
    fs::create_dir_all(MOUNT_POINT).with_context(|| format!("creating `{MOUNT_POINT}`"))?;
    for name in root.list("/sys/class/block")? {
        if ["loop", "ram", "zram", "dm-"]
            .iter()
            .any(|kind| name.starts_with(kind))
        {
            continue;
        }
        let node = PathBuf::from("/dev").join(name.replace('!', "/"));
        // A drive without a medium cannot be opened.
        let system = File::open(&node)
            .ok()
            .and_then(|mut file| probe(&mut file).ok().flatten());
        if system.is_none_or(|system| system.kind != "iso9660") {
            continue;
        }
        let flags =
            MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        if let Err(error) = mount(
            Some(&node),
            MOUNT_POINT,
            Some("iso9660"),
            flags,
            None::<&str>,
        ) {
            say(&format!("mounting `{}`: {error}", node.display()));
            continue;
        }
        let hash = fs::read_to_string(Path::new(MOUNT_POINT).join(FOLDER).join("roothash"));
        if hash.is_ok_and(|hash| hash.trim() == root_hash) {
            return Ok(Some(name));
        }
        umount2(MOUNT_POINT, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmounting `{MOUNT_POINT}`"))?;
    }
    Ok(None)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let doing = || format!("copying `{}`", from.display());
    fs::create_dir_all(to).with_context(doing)?;
    for entry in fs::read_dir(from).with_context(doing)? {
        let entry = entry.with_context(doing)?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(doing)?;
        }
    }
    Ok(())
}
