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

use super::listing::{Kind, Listing, clean, is_of_macos};
use super::probe::{self, Contents};
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

/// What the files of a package are, by name.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) listing: Listing,
    /// Contents of small files of an archive. Files of a folder are read on demand.
    pub(super) small: BTreeMap<String, Vec<u8>>,
    pub(super) contents: BTreeMap<String, Contents>,
    kept: u64,
}

pub(super) fn archive(path: &Path) -> Result<Found> {
    let mut found = Found::default();
    let Found {
        listing,
        small,
        contents,
        kept,
    } = &mut found;
    stream::entries(stream::open(path)?, |entry| {
        let name = entry_name(entry)?;
        if is_of_macos(&name) {
            listing.macos.push(name);
            return Ok(());
        }
        let header = entry.header();
        let executable = header.mode().unwrap_or(0o644) & 0o111 != 0;
        match header.entry_type() {
            EntryType::Directory | EntryType::XGlobalHeader => {}
            kind if is_file(kind) => {
                let size = entry.size();
                let keep = size <= SMALL && *kept + size <= SMALL_TOTAL;
                let file = read(&mut *entry, keep)
                    .map_err(|e| stream::explained(e).context(format!("reading entry `{name}`")))?;
                listing.add(name.clone(), file.kind(executable))?;
                contents.insert(name.clone(), file.contents);
                if keep {
                    *kept += size;
                    small.insert(name, file.bytes);
                }
            }
            EntryType::Symlink => {
                let target = entry
                    .link_name_bytes()
                    .with_context(|| format!("symlink `{name}` has no target"))?;
                add_symlink(listing, name, std::str::from_utf8(&target).ok())?;
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
                if let Some(same) = contents.get(&target).cloned() {
                    contents.insert(name.clone(), same);
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
    Ok(found)
}

fn add_symlink(listing: &mut Listing, name: String, target: Option<&str>) -> Result<()> {
    let target = target
        .with_context(|| format!("the target of symlink `{name}` is not UTF-8"))?
        .to_owned();
    listing.add(name, Kind::Symlink { target })
}

pub(super) fn folder(root: &Path, below: &str, found: &mut Found) -> Result<()> {
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
        if is_of_macos(&name) {
            found.listing.macos.push(name);
            continue;
        }
        if kind.is_dir() {
            folder(root, &name, found)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path())?;
            add_symlink(&mut found.listing, name, target.to_str())?;
        } else if kind.is_file() {
            let file = File::open(entry.path())
                .with_context(|| format!("opening `{}`", entry.path().display()))?;
            let executable = file.metadata()?.permissions().mode() & 0o111 != 0;
            let file = read(file, false)
                .with_context(|| format!("reading `{}`", entry.path().display()))?;
            found.listing.add(name.clone(), file.kind(executable))?;
            found.contents.insert(name, file.contents);
        } else {
            bail!(
                "entry `{name}` is a device node, pipe or socket; a package holds files, folders \
                 and links"
            );
        }
    }
    Ok(())
}

/// A file, read once.
struct Whole {
    size: u64,
    sha256: [u8; 32],
    contents: Contents,
    /// Empty unless they were to be kept.
    bytes: Vec<u8>,
}

impl Whole {
    fn kind(&self, executable: bool) -> Kind {
        Kind::File {
            size: self.size,
            sha256: self.sha256,
            executable,
        }
    }
}

/// A reader that hashes what it returns.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    size: u64,
    kept: Option<Vec<u8>>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.size += n as u64;
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&buffer[..n]);
        }
        Ok(n)
    }
}

/// Reads to the end: what the file is, its digest and, if `keep`, its bytes.
fn read(data: impl Read, keep: bool) -> io::Result<Whole> {
    let mut data = Hashing {
        inner: data,
        hash: Sha256::new(),
        size: 0,
        kept: keep.then(Vec::new),
    };
    let contents = probe::probe(&mut data)?;
    // The probe stops where it knows enough.
    io::copy(&mut data, &mut io::sink())?;
    Ok(Whole {
        size: data.size,
        sha256: data.hash.finalize().into(),
        contents,
        bytes: data.kept.unwrap_or_default(),
    })
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
