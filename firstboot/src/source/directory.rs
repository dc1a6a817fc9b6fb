//! A NoCloud folder: one host's files at its root, or several hosts' under `hosts/<name>/`.
//!
//! Also the source of `--seed DIR`. Does not mount.

use std::fs::{self, FileType, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use userdata::document::Machine;
use userdata::network::{Device, MacAddress, Network};

use super::{Seed, Source, SourceResult, WrongMachine};
use crate::system::machine::Identity;

/// No document comes near this size; a disk that is labelled by mistake may hold any file.
const LIMIT: u64 = 4 << 20;

/// A folder named on the command line.
#[derive(Debug)]
pub struct Directory(pub PathBuf);

impl Source for Directory {
    fn name(&self) -> &'static str {
        "directory"
    }

    fn read(&self, machine: &Identity) -> Result<SourceResult> {
        ensure!(self.0.is_dir(), "`{}` is not a directory", self.0.display());
        read(&self.0, &self.0.display().to_string(), machine)
    }
}

/// Reads the seed in `folder`, which messages call `origin`.
pub fn read(folder: &Path, origin: &str, machine: &Identity) -> Result<SourceResult> {
    let hosts = host_folders(folder, origin)?;
    let alone = read_files(folder, origin)?;
    match (alone, hosts.is_empty()) {
        (Some(_), false) => bail!(
            "{origin}: has both `user-data` and a `hosts` folder; keep `user-data` for one host or `hosts` for several"
        ),
        (None, true) => Ok(SourceResult::NotFound(format!(
            "{origin} has no `user-data`"
        ))),
        (Some(seed), true) => {
            if let Some(refusal) = mismatch(&seed, machine)? {
                return Err(WrongMachine(format!(
                    "{origin}: this document is for another machine: {refusal}"
                ))
                .into());
            }
            Ok(SourceResult::Found(seed))
        }
        (None, false) => choose(hosts, origin, machine),
    }
}

/// The host of several whose `match` is this machine.
fn choose(
    folders: Vec<(String, PathBuf)>,
    origin: &str,
    machine: &Identity,
) -> Result<SourceResult> {
    let count = folders.len();
    let mut matching = Vec::new();
    for (name, folder) in folders {
        let origin = format!("{origin}/hosts/{name}");
        let Some(seed) = read_files(&folder, &origin)? else {
            bail!("{origin}: there is no `user-data`");
        };
        let host_match = seed.host_match()?;
        if host_match.matches(&machine_for(&seed, machine)) || host_match.is_empty() && count == 1 {
            matching.push((name, seed));
        }
    }
    match matching.len() {
        0 => Ok(SourceResult::NotFound(format!(
            "{origin}: none of its {count} hosts matches this machine"
        ))),
        1 => Ok(SourceResult::Found(matching.remove(0).1)),
        _ => {
            let names: Vec<_> = matching.into_iter().map(|(name, _)| name).collect();
            bail!(
                "{origin}: {} hosts match this machine: {}; change their `match` so that only one does",
                names.len(),
                names.join(", ")
            )
        }
    }
}

/// Why the seed's `match` does not fit this machine, with both sides' values.
pub fn mismatch(seed: &Seed, machine: &Identity) -> Result<Option<String>> {
    let host_match = seed.host_match()?;
    if host_match.is_empty() || host_match.matches(&machine_for(seed, machine)) {
        return Ok(None);
    }
    let mut expected = Vec::new();
    if !host_match.macs.is_empty() {
        let macs: Vec<_> = host_match.macs.iter().map(ToString::to_string).collect();
        expected.push(format!("the MAC {}", macs.join(" or ")));
    }
    expected.extend(
        host_match
            .serial
            .map(|serial| format!("the serial number {serial}")),
    );
    expected.extend(host_match.uuid.map(|uuid| format!("the UUID {uuid}")));
    Ok(Some(format!(
        "it matches {}; this machine has {machine}",
        expected.join(", ")
    )))
}

/// This machine as the document of `seed` knows it: where the kernel does not tell the permanent
/// address of a link, the address that the document itself sets stands for it.
fn machine_for(seed: &Seed, machine: &Identity) -> Machine {
    let mut known = machine.for_match();
    let unsure = machine.links.iter().filter(|link| link.permanent.is_none());
    let current: Vec<MacAddress> = unsure.filter_map(|link| link.mac.parse().ok()).collect();
    let text = seed.network_config.as_deref().unwrap_or_default();
    let network = std::str::from_utf8(text)
        .ok()
        .and_then(|text| Network::parse("network-config", text).ok());
    let Some((Some(network), _)) = network else {
        return known;
    };
    let hardware = |device: &Device| {
        let matching = device.matching.as_ref();
        matching.and_then(|matching| matching.macaddress.clone())
    };
    for device in network.ethernets.values() {
        if device.macaddress.iter().any(|set| current.contains(set)) {
            known.macs.extend(hardware(device));
        }
    }
    for bond in network.bonds.values() {
        // Its members all have the address of the bond, which is that of a member by default.
        let members = bond.interfaces.iter();
        let members: Vec<MacAddress> = members
            .filter_map(|id| network.ethernets.get(id).and_then(hardware))
            .collect();
        let mut shared = members.iter().chain(&bond.macaddress);
        if shared.any(|address| current.contains(address)) {
            known.macs.extend(members);
        }
    }
    known
}

fn host_folders(folder: &Path, origin: &str) -> Result<Vec<(String, PathBuf)>> {
    let hosts = folder.join("hosts");
    // Other tools put a file of this name into seeds; firstboot ignores it, as any other file.
    if !is_folder(&hosts, &format!("{origin}/hosts"))? {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(&hosts).with_context(|| format!("listing `{}`", hosts.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("listing `{}`", hosts.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_folder(&entry.path(), &format!("{origin}/hosts/{name}"))? {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn read_files(folder: &Path, origin: &str) -> Result<Option<Seed>> {
    let read = |name: &str| read_bytes(folder, name, origin);
    let Some(user_data) = read("user-data")? else {
        return Ok(None);
    };
    Ok(Some(Seed {
        origin: origin.to_owned(),
        user_data,
        meta_data: read("meta-data")?.unwrap_or_default(),
        network_config: read("network-config")?,
        vendor_data: read("vendor-data")?,
    }))
}

/// The kind of what is at `path`; `None` if nothing is. `shown` names it in messages. A link could
/// lead out of the seed to any file of this machine.
fn kind_of(path: &Path, shown: &str) -> Result<Option<FileType>> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => {
            bail!("{shown}: is a symbolic link; put the file itself into the seed")
        }
        Ok(meta) => Ok(Some(meta.file_type())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("reading `{}`", path.display())),
    }
}

fn is_folder(path: &Path, shown: &str) -> Result<bool> {
    Ok(kind_of(path, shown)?.is_some_and(|kind| kind.is_dir()))
}

pub(super) fn read_bytes(folder: &Path, name: &str, origin: &str) -> Result<Option<Vec<u8>>> {
    let (path, shown) = (folder.join(name), format!("{origin}/{name}"));
    let Some(kind) = kind_of(&path, &shown)? else {
        return Ok(None);
    };
    ensure!(
        kind.is_file(),
        "{shown}: is {}; a seed has regular files",
        describe(kind)
    );
    // What was a file a moment ago may be a pipe now, which would block the boot.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(&path)
        .with_context(|| format!("opening `{}`", path.display()))?;
    let meta = file.metadata();
    let meta = meta.with_context(|| format!("reading `{}`", path.display()))?;
    ensure!(meta.is_file(), "{shown}: is not a regular file any more");
    let mut bytes = Vec::new();
    file.take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("reading `{}`", path.display()))?;
    ensure!(
        bytes.len() as u64 <= LIMIT,
        "{shown}: is larger than {} MiB",
        LIMIT >> 20
    );
    Ok(Some(bytes))
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}
