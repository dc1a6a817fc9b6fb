//! Files of the document, each written once: what changes them later stays.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::Step;
use crate::applied::{Applied, digest};
use crate::report::Reporter;
use crate::system::files::{Attributes, DesiredFile, Root};
use crate::system::{accounts, machine};
use userdata::cloud_config::File;

/// Folders that are empty at every boot. Their files are written once in each boot.
const VOLATILE: [&str; 3] = ["/run/", "/tmp/", "/dev/"];

/// The part of the image that no document can write to, wherever it is unpacked. Other read-only
/// places are known to the running kernel only.
const IMAGE: [&str; 6] = ["/usr/", "/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/"];

/// What the kernel shows as files: there is nothing to rename there.
const KERNEL: [&str; 2] = ["/proc/", "/sys/"];

/// How the names of files begin that other steps write at every boot.
const OWN: [&str; 3] = ["10-firstlight", "90-firstlight-", "firstlight-resolv-conf"];

#[derive(Debug)]
pub struct Files {
    pub root: Root,
    pub files: Vec<File>,
    pub instance: String,
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write the document's {} files", self.files.len())
    }
}

/// A file to write, and what it then has of the document.
struct Change {
    file: DesiredFile,
    key: String,
    parts: Vec<String>,
}

impl Step for Files {
    fn name(&self) -> &'static str {
        "files"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(self.changes(&mut self.record()?)?.is_empty())
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let mut record = self.record()?;
        let changes = self.changes(&mut record)?;
        // A file that is replaced may as well be replaced again after a power cut.
        let appends = |path: &str| {
            let mut entries = self.files.iter().filter(|file| file.path == path);
            entries.any(|file| file.append)
        };
        for change in changes.iter().filter(|change| appends(&change.key)) {
            record.begin(&change.key, change.parts.clone(), &change.file.bytes);
        }
        if changes.iter().any(|change| appends(&change.key)) {
            record.save()?;
        }
        let files: Vec<_> = changes.iter().map(|change| change.file.clone()).collect();
        for file in self.root.write_all(&files)? {
            log::info!(
                "wrote `{}` (mode {:04o})",
                file.path.display(),
                file.attributes.mode
            );
        }
        for change in changes {
            record.set(&change.key, change.parts);
        }
        record.save_or_tell(report);
        Ok(())
    }
}

impl Files {
    fn record(&self) -> Result<Applied> {
        Applied::open(&self.root, &self.instance)
    }

    /// The files that lack a part of the document. Each path once, with its entries in order.
    fn changes(&self, record: &mut Applied) -> Result<Vec<Change>> {
        let mut paths = Vec::<&str>::new();
        for file in &self.files {
            if !paths.contains(&file.path.as_str()) {
                paths.push(&file.path);
            }
        }
        let mut changes = Vec::new();
        let mut pairs = Vec::new();
        for path in &paths {
            if let Some(change) = self.change(path, record)? {
                pairs.extend(pair(path));
                changes.push(change);
            }
        }
        // A certificate that was renewed with its key fits no other key: both come back, or none.
        for path in paths {
            let half = pair(path).is_some_and(|stem| pairs.contains(&stem));
            if half && !changes.iter().any(|change| change.key == path) {
                record.forget(path);
                changes.extend(self.change(path, record)?);
            }
        }
        Ok(changes)
    }

    fn change(&self, path: &str, record: &mut Applied) -> Result<Option<Change>> {
        let Some((bytes, parts)) = self.content(path, record)? else {
            return Ok(None);
        };
        let Some(last) = self.files.iter().rfind(|file| file.path == path) else {
            return Ok(None);
        };
        let file = DesiredFile {
            path: PathBuf::from(path),
            bytes,
            attributes: self.attributes(last)?,
        };
        Ok(Some(Change {
            file,
            key: path.to_owned(),
            parts,
        }))
    }

    /// Refuses a document whose files cannot be written, before the first change.
    ///
    /// `users` and `groups` are those that the document makes. What is written already may have
    /// changed since.
    pub fn check(&self, users: &[String], groups: &[String]) -> Result<()> {
        let record = self.record()?;
        for file in &self.files {
            let same = self.files.iter().filter(|other| other.path == file.path);
            let entries: Vec<&File> = same.collect();
            if !record.has(&file.path, &parts(&file.path, &entries)) {
                check(&self.root, file, users, groups)?;
            }
        }
        Ok(())
    }

    /// What this step makes of the file `path`; `None` if it leaves it as it is.
    pub fn upcoming(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let content = self.content(path, &mut self.record()?)?;
        Ok(content.map(|(bytes, _)| bytes))
    }

    /// The bytes of a file that lacks a part of the document, and the parts it then has.
    fn content(&self, path: &str, record: &mut Applied) -> Result<Option<(Vec<u8>, Vec<String>)>> {
        let entries: Vec<&File> = self.files.iter().filter(|file| file.path == path).collect();
        let parts = parts(path, &entries);
        record.settle(path)?;
        if record.has(path, &parts) {
            return Ok(None);
        }
        let done = record.parts(path);
        let replaced = entries.iter().rposition(|file| !file.append);
        let (keep, new): (bool, Vec<&File>) = match replaced {
            // Only entries that append are new.
            Some(at) if done.len() > at && parts.starts_with(done) => {
                (true, entries[done.len()..].to_vec())
            }
            Some(at) => (false, entries[at..].to_vec()),
            None => {
                let pairs = entries.iter().zip(&parts);
                let new = pairs.filter(|(_, part)| !done.contains(part));
                (true, new.map(|(file, _)| *file).collect())
            }
        };
        let mut bytes = Vec::new();
        if keep {
            bytes = self.root.read(path)?.unwrap_or_default();
        }
        for file in new {
            bytes.extend(file.content.expose());
        }
        Ok((!entries.is_empty()).then_some((bytes, parts)))
    }

    /// Resolves owners by name; users of the document exist already.
    fn attributes(&self, file: &File) -> Result<Attributes> {
        let mut attributes = Attributes::mode(file.mode);
        if !self.root.is_machine() {
            return Ok(attributes);
        }
        let (user, group) = (&file.owner.user, &file.owner.group);
        if let Ok(uid) = user.parse() {
            (attributes.uid, attributes.gid) = (uid, uid);
        } else if user != "root" {
            let found = accounts::user(&self.root, user)?;
            (attributes.uid, attributes.gid) = found.with_context(|| {
                format!(
                    "the owner of `{}` is user `{user}`, which does not exist",
                    file.path
                )
            })?;
        }
        if let Some(group) = group {
            attributes.gid = match group.parse() {
                Ok(gid) => gid,
                Err(_) if group == "root" => 0,
                Err(_) => accounts::group(&self.root, group)?.with_context(|| {
                    format!(
                        "the group of `{}` is `{group}`, which does not exist",
                        file.path
                    )
                })?,
            };
        }
        Ok(attributes)
    }
}

/// What a certificate and its key have in common.
fn pair(path: &str) -> Option<&str> {
    path.strip_suffix(".crt")
        .or_else(|| path.strip_suffix(".key"))
}

/// The digests of the entries of one path.
fn parts(path: &str, entries: &[&File]) -> Vec<String> {
    let boot = VOLATILE
        .iter()
        .any(|folder| path.starts_with(folder))
        .then(|| machine::boot_id().unwrap_or_default());
    entries.iter().map(|file| part(file, &boot)).collect()
}

/// One entry, and for a file that does not outlast a boot, the boot.
fn part(file: &File, boot: &Option<String>) -> String {
    let mode = file.mode.to_le_bytes();
    let group = file.owner.group.as_deref().unwrap_or_default();
    digest([
        file.content.expose().as_slice(),
        mode.as_slice(),
        file.owner.user.as_bytes(),
        group.as_bytes(),
        &[u8::from(file.append)],
        boot.as_deref().unwrap_or_default().as_bytes(),
    ])
}

/// Refuses a file that cannot be written.
fn check(root: &Root, file: &File, users: &[String], groups: &[String]) -> Result<()> {
    let path = &file.path;
    if is_of_image(root, path) {
        bail!(
            "write_files: `{path}` is on the read-only image; write below /etc, /var, /run, \
                 /root or /home instead"
        );
    }
    ensure!(
        !KERNEL.iter().any(|folder| path.starts_with(folder)),
        "write_files: `{path}` belongs to the kernel; set it with `bootcmd`"
    );
    let name = path.rsplit('/').next().unwrap_or_default();
    ensure!(
        !(path.starts_with("/etc/") && OWN.iter().any(|own| name.starts_with(own))),
        "write_files: `{path}` has the name of a file of firstboot's own"
    );
    ensure!(
        !root.join(path).is_dir(),
        "write_files: `{path}` is a directory on this machine"
    );
    if let Some(parent) = nearest(root, path) {
        ensure!(
            parent.is_dir(),
            "write_files: `{path}` is below `{}`, which is no directory",
            parent.display()
        );
    }
    let (user, group) = (&file.owner.user, &file.owner.group);
    let known = |name: &String, made: &[String], exists: bool| {
        name == "root" || name.parse::<u32>().is_ok() || made.contains(name) || exists
    };
    // A directory of `--root` need not hold the tables.
    if root.exists("/etc/passwd") && !known(user, users, accounts::user(root, user)?.is_some()) {
        bail!("write_files: `{path}` belongs to user `{user}`, which does not exist");
    }
    if let Some(group) = group
        && root.exists("/etc/group")
        && !known(group, groups, accounts::group(root, group)?.is_some())
    {
        bail!("write_files: `{path}` belongs to group `{group}`, which does not exist");
    }
    Ok(())
}

/// The longest part of the way to `path` that exists.
fn nearest(root: &Root, path: &str) -> Option<PathBuf> {
    let full = root.join(path);
    let mut parents = full.ancestors().skip(1);
    parents.find(|parent| parent.exists()).map(PathBuf::from)
}

/// Whether no document can write to `path`.
pub fn is_of_image(root: &Root, path: &str) -> bool {
    IMAGE.iter().any(|folder| path.starts_with(folder)) || is_read_only(root, path)
}

/// Whether the file system below `path` is mounted read-only. A directory of `--root` says nothing
/// about the machine.
fn is_read_only(root: &Root, path: &str) -> bool {
    use nix::sys::statvfs::{FsFlags, statvfs};
    root.is_machine()
        && nearest(root, path)
            .and_then(|parent| statvfs(&parent).ok())
            .is_some_and(|system| system.flags().contains(FsFlags::ST_RDONLY))
}
