//! The verified root in memory: fetched, and put behind loop devices that dm-verity finds by name.
//!
//! dm-verity checks every block against the root hash of the command line when it is read. So the
//! server is not trusted, and nothing here compares digests.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

use super::fetch::Server;
use super::{Place, Record, Settings, Waiting, document, medium, memory, say};
use crate::system::command;
use crate::system::files::Root;
use crate::system::machine::Identity;

/// Name of the file, and the name by which udev links its loop device.
pub(super) const PARTS: [(&str, &str); 2] = [
    ("root.erofs", "firstlight-root"),
    ("root.verity", "firstlight-tree"),
];

/// A tmpfs of its own size: the initrd's own has no room, or no limit.
const FOLDER: &str = "/run/firstlight/root";

/// What a host needs besides its root until it has state, in MiB.
const RESERVE_MIB: u64 = 384;

/// `firstboot attach-root`
pub fn attach(root: &Root) -> Result<()> {
    let settings = Settings::require(root)?;
    command::run("modprobe", &["loop"])?;
    let record = match &settings.place {
        Place::Server(base) => from_server(root, base)?,
        Place::Medium => medium::attach(root, &settings.root_hash)?,
    };
    record.write(root)
}

fn from_server(root: &Root, base: &str) -> Result<Record> {
    let server = Server::new(base);
    let mut waiting = Waiting::new(base);
    let mut patient = |result: Result<u64>| match result {
        Ok(value) => Some(value),
        Err(error) => {
            let machine = Identity::read(root).map(|machine| machine.to_string());
            let machine = machine.unwrap_or_default();
            waiting.pause(&format!("{error:#} (this machine is {machine})"));
            None
        }
    };
    let mut sizes = Vec::new();
    for (name, _) in PARTS {
        say(&format!("fetching {}", server.url(name)));
        let size = loop {
            if let Some(size) = patient(server.size(name)) {
                break size;
            }
        };
        sizes.push(size);
    }
    room(root, sizes.iter().sum())?;
    for ((name, _), total) in PARTS.iter().zip(&sizes) {
        let path = Path::new(FOLDER).join(name);
        let mut file =
            File::create(&path).with_context(|| format!("creating `{}`", path.display()))?;
        let mut at = 0;
        while at < *total {
            if let Some(next) = patient(server.copy_part(name, at, *total, &mut file)) {
                at = next;
            }
        }
    }
    let no_document = document::fetch(root, &server, &Identity::read(root)?)?;
    if let Some(reason) = &no_document {
        say(&format!("no document for this machine: {reason}"));
    }
    for (name, link) in PARTS {
        loop_device(&Path::new(FOLDER).join(name), link)?;
    }
    Ok(Record {
        origin: base.to_owned(),
        no_document,
        state: None,
    })
}

/// Mounts a tmpfs for `bytes`, if memory has room for them and for the system.
pub(super) fn room(root: &Root, bytes: u64) -> Result<()> {
    let needed = (bytes >> 20) + 1;
    let (_, free) = memory(root)?;
    ensure!(
        free >= needed + RESERVE_MIB,
        "this machine has {free} MiB of free memory; the root takes {needed} MiB of it, and the \
         system {RESERVE_MIB} MiB more; add memory, or install the image on a disk"
    );
    fs::create_dir_all(FOLDER).with_context(|| format!("creating `{FOLDER}`"))?;
    let size = format!("size={}M,mode=0700", needed + needed / 20 + 1);
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(
        Some("tmpfs"),
        FOLDER,
        Some("tmpfs"),
        flags,
        Some(size.as_str()),
    )
    .with_context(|| format!("mounting `{FOLDER}`"))
}

/// Copies a file of a medium into the tmpfs.
pub(super) fn keep(from: &Path, name: &str) -> Result<std::path::PathBuf> {
    let to = Path::new(FOLDER).join(name);
    fs::copy(from, &to).with_context(|| format!("copying `{}`", from.display()))?;
    Ok(to)
}

/// Attaches a file read-only; udev links the device by `name`.
pub(super) fn loop_device(file: &Path, name: &str) -> Result<()> {
    let file = file.to_string_lossy();
    let arguments = ["--find", "--read-only", "--loop-ref", name, &file];
    command::run("losetup", &arguments)
}
