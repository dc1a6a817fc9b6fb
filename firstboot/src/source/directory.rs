//! A NoCloud folder: one host's files at its root, or several hosts' under `hosts/<name>/`.
//!
//! Also the source of `--seed DIR`. Mounting is done elsewhere.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::{Look, Seed, Source, Stranger};
use crate::document;
use crate::system::machine::Identity;

/// No document of a host comes near this; a disk that is labelled by mistake may hold anything.
const LIMIT: u64 = 4 << 20;

/// A folder named on the command line.
#[derive(Debug)]
pub struct Directory(pub PathBuf);

impl Source for Directory {
    fn name(&self) -> &'static str {
        "directory"
    }

    fn read(&self, machine: &Identity) -> Result<Look> {
        ensure!(self.0.is_dir(), "`{}` is not a directory", self.0.display());
        read(&self.0, &self.0.display().to_string(), machine)
    }
}

/// Reads the seed in `folder`; `origin` is what people know it by.
pub fn read(folder: &Path, origin: &str, machine: &Identity) -> Result<Look> {
    let hosts = host_folders(folder)?;
    let alone = read_files(folder, origin)?;
    match (alone, hosts.is_empty()) {
        (Some(_), false) => bail!(
            "{origin}: has a `user-data` of its own and a `hosts` folder; it must be one host's seed or several hosts'"
        ),
        (None, true) => Ok(Look::Nothing(format!("{origin} holds no `user-data`"))),
        (Some(seed), true) => {
            if let Some(refusal) = mismatch(&seed, machine)? {
                return Err(Stranger(format!(
                    "{origin}: this document is for another machine: {refusal}"
                ))
                .into());
            }
            Ok(Look::Found(seed))
        }
        (None, false) => choose(hosts, origin, machine),
    }
}

/// The one host of several that is this machine.
fn choose(folders: Vec<(String, PathBuf)>, origin: &str, machine: &Identity) -> Result<Look> {
    let count = folders.len();
    let mut ours = Vec::new();
    for (name, folder) in folders {
        let origin = format!("{origin}/hosts/{name}");
        let Some(seed) = read_files(&folder, &origin)? else {
            bail!("{origin}: holds no `user-data`");
        };
        let wanted = document::host_match(&seed)?;
        if wanted.matches(&machine.for_match()) || wanted.is_empty() && count == 1 {
            ours.push((name, seed));
        }
    }
    match ours.len() {
        0 => Ok(Look::Nothing(format!(
            "{origin}: none of its {count} hosts is this machine"
        ))),
        1 => Ok(Look::Found(ours.remove(0).1)),
        _ => {
            let names: Vec<_> = ours.into_iter().map(|(name, _)| name).collect();
            bail!(
                "{origin}: {} hosts are this machine: {}; their `match` must tell them apart",
                names.len(),
                names.join(", ")
            )
        }
    }
}

/// Why the seed's `match` does not fit this machine, with both sides' values.
fn mismatch(seed: &Seed, machine: &Identity) -> Result<Option<String>> {
    let wanted = document::host_match(seed)?;
    if wanted.is_empty() || wanted.matches(&machine.for_match()) {
        return Ok(None);
    }
    let mut asked = Vec::new();
    if !wanted.macs.is_empty() {
        let macs: Vec<_> = wanted.macs.iter().map(ToString::to_string).collect();
        asked.push(format!("the MAC {}", macs.join(" or ")));
    }
    asked.extend(
        wanted
            .serial
            .map(|serial| format!("the serial number {serial}")),
    );
    asked.extend(wanted.uuid.map(|uuid| format!("the UUID {uuid}")));
    Ok(Some(format!(
        "it wants {}; this machine has {machine}",
        asked.join(", ")
    )))
}

fn host_folders(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let hosts = folder.join("hosts");
    let entries = match fs::read_dir(&hosts) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("listing `{}`", hosts.display())),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("listing `{}`", hosts.display()))?;
        if entry.path().is_dir() {
            found.push((
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            ));
        }
    }
    found.sort();
    Ok(found)
}

fn read_files(folder: &Path, origin: &str) -> Result<Option<Seed>> {
    let Some(user_data) = read_bytes(&folder.join("user-data"), origin)? else {
        return Ok(None);
    };
    Ok(Some(Seed {
        origin: origin.to_owned(),
        user_data,
        meta_data: read_bytes(&folder.join("meta-data"), origin)?.unwrap_or_default(),
        network_config: read_bytes(&folder.join("network-config"), origin)?,
    }))
}

fn read_bytes(path: &Path, origin: &str) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("opening `{}`", path.display())),
    };
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut bytes = Vec::new();
    file.take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("reading `{}`", path.display()))?;
    ensure!(
        bytes.len() as u64 <= LIMIT,
        "{origin}/{name}: is larger than {} MiB",
        LIMIT >> 20
    );
    Ok(Some(bytes))
}
