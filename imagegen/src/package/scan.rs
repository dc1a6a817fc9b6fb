//! Reads all entries of a package, an archive or a folder, into its listing.
//!
//! Writes nothing. The listing checks the rules over all entries.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::listing::{Kind, Listing, clean};
use super::stream;

/// Files of an archive up to this size stay in memory: configuration and scripts, not programs.
const SMALL: u64 = 1 << 20;
/// The limit for all files in memory.
const SMALL_TOTAL: u64 = 64 << 20;

pub(super) fn is_file(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
    )
}

pub(super) fn entry_name(entry: &tar::Entry<'_, impl Read>) -> Result<String> {
    let name = entry.path_bytes();
    let name = std::str::from_utf8(&name).with_context(|| {
        format!(
            "entry `{}` has a name that is not UTF-8",
            String::from_utf8_lossy(&name)
        )
    })?;
    clean(name)
}

pub(super) fn link_name(entry: &tar::Entry<'_, impl Read>) -> Result<String> {
    let target = entry.link_name_bytes().context("a link has no target")?;
    let target = std::str::from_utf8(&target).context("a link's target is not UTF-8")?;
    clean(target).with_context(|| format!("hard link to `{target}`"))
}

pub(super) fn archive(path: &Path, small: &mut BTreeMap<String, Vec<u8>>) -> Result<Listing> {
    let mut listing = Listing::default();
    let mut kept = 0;
    stream::entries(stream::open(path)?, |entry| {
        let name = entry_name(entry)?;
        let header = entry.header();
        let executable = header.mode().unwrap_or(0o644) & 0o111 != 0;
        match header.entry_type() {
            EntryType::Directory | EntryType::XGlobalHeader => {}
            kind if is_file(kind) => {
                let size = entry.size();
                let keep = size <= SMALL && kept + size <= SMALL_TOTAL;
                let mut bytes = Vec::new();
                let (read, sha256) = digest(&mut *entry, |part| {
                    if keep {
                        bytes.extend_from_slice(part);
                    }
                    Ok(())
                })
                .map_err(|e| stream::explained(e).context(format!("reading entry `{name}`")))?;
                listing.add(
                    name.clone(),
                    Kind::File {
                        size: read,
                        sha256,
                        executable,
                    },
                )?;
                if keep {
                    kept += size;
                    small.insert(name, bytes);
                }
            }
            EntryType::Symlink => {
                let target = entry
                    .link_name_bytes()
                    .with_context(|| format!("symlink `{name}` has no target"))?;
                add_symlink(&mut listing, name, std::str::from_utf8(&target).ok())?;
            }
            EntryType::Link => {
                let target = link_name(entry).with_context(|| format!("entry `{name}`"))?;
                let Some(Kind::File { .. }) = listing.get(&target) else {
                    bail!(
                        "entry `{name}` is a hard link to `{target}`, which is not an earlier \
                         file of the package"
                    );
                };
                let kind = listing.get(&target).cloned().context("seen above")?;
                if let Some(bytes) = small.get(&target).cloned() {
                    small.insert(name.clone(), bytes);
                }
                listing.add(name, kind)?;
            }
            EntryType::Block | EntryType::Char => {
                bail!("entry `{name}` is a device node; a package holds files, folders and links")
            }
            EntryType::Fifo => {
                bail!("entry `{name}` is a pipe; a package holds files, folders and links")
            }
            other => bail!("entry `{name}` has the unknown type {other:?}"),
        }
        Ok(())
    })?;
    Ok(listing)
}

fn add_symlink(listing: &mut Listing, name: String, target: Option<&str>) -> Result<()> {
    let target = target
        .with_context(|| format!("the target of symlink `{name}` is not UTF-8"))?
        .to_owned();
    listing.add(name, Kind::Symlink { target })
}

pub(super) fn folder(root: &Path, below: &str, listing: &mut Listing) -> Result<()> {
    let at = root.join(below);
    for entry in fs::read_dir(&at).with_context(|| format!("reading `{}`", at.display()))? {
        let entry = entry.with_context(|| format!("reading `{}`", at.display()))?;
        let name = entry.file_name();
        let name = name.to_str().with_context(|| {
            format!("`{}` has a name that is not UTF-8", entry.path().display())
        })?;
        let name = if below.is_empty() {
            name.to_owned()
        } else {
            format!("{below}/{name}")
        };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            folder(root, &name, listing)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path())?;
            add_symlink(listing, name, target.to_str())?;
        } else if kind.is_file() {
            let file = File::open(entry.path())
                .with_context(|| format!("opening `{}`", entry.path().display()))?;
            let executable = file.metadata()?.permissions().mode() & 0o111 != 0;
            let (size, sha256) = digest(file, |_| Ok(()))
                .with_context(|| format!("reading `{}`", entry.path().display()))?;
            listing.add(
                name,
                Kind::File {
                    size,
                    sha256,
                    executable,
                },
            )?;
        } else {
            bail!(
                "entry `{name}` is a device node, pipe or socket; a package holds files, folders \
                 and links"
            );
        }
    }
    Ok(())
}

/// Reads to the end, passes every part to `each`, and returns length and SHA-256.
pub(super) fn digest(
    mut data: impl Read,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(u64, [u8; 32])> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut size = 0;
    loop {
        let n = match data.read(&mut buffer) {
            Ok(0) => return Ok((size, hash.finalize().into())),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        hash.update(&buffer[..n]);
        each(&buffer[..n])?;
        size += n as u64;
    }
}
