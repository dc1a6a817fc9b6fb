//! Writes entries as one tar file.

use std::io::{self, Read as _, Write};

use anyhow::{Context as _, Result};
use build_tools::debian_tree::SOURCE_DATE_EPOCH;

use super::{Archive, Content, Entry};

impl Archive {
    /// Writes all entries ordered by path, hard links last, after their targets.
    pub fn write(&self, out: impl Write) -> Result<()> {
        let mut tar = tar::Builder::new(out);
        append_root(&mut tar)?;
        let links = |entry: &Entry| matches!(entry.content, Content::Hardlink(_));
        for later in [false, true] {
            for (path, entry) in self.entries.iter().filter(|(_, e)| links(e) == later) {
                append(&mut tar, path, entry)
                    .with_context(|| format!("writing `{path}` into the root"))?;
            }
        }
        tar.into_inner()
            .and_then(|mut out| out.flush())
            .context("writing the root")
    }
}

/// The root folder itself. mkfs.erofs would let everyone write to it, and sshd takes no keys below
/// such a folder.
fn append_root(tar: &mut tar::Builder<impl Write>) -> Result<()> {
    const NAME: &[u8] = b"./";
    let mut header = tar::Header::new_ustar();
    // The crate drops this name as an empty one.
    header.as_old_mut().name[..NAME.len()].copy_from_slice(NAME);
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(SOURCE_DATE_EPOCH);
    header.set_size(0);
    header.set_cksum();
    tar.append(&header, io::empty())
        .context("writing the root folder")
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, entry: &Entry) -> Result<()> {
    let mut attributes: Vec<(String, &[u8])> = entry
        .xattrs
        .iter()
        .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice()))
        .collect();
    attributes.sort();
    if !attributes.is_empty() {
        tar.append_pax_extensions(attributes.iter().map(|(n, v)| (n.as_str(), *v)))?;
    }
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.uid);
    header.set_gid(entry.gid);
    header.set_mtime(entry.mtime);
    header.set_size(0);
    match &entry.content {
        Content::File(data) => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(data.len());
            tar.append_data(&mut header, path, data.reader()?.take(data.len()))?;
            return Ok(());
        }
        Content::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, path, target)?;
            return Ok(());
        }
        Content::Hardlink(target) => {
            header.set_entry_type(tar::EntryType::Link);
            tar.append_link(&mut header, path, target)?;
            return Ok(());
        }
        Content::Directory => header.set_entry_type(tar::EntryType::Directory),
        Content::Fifo => header.set_entry_type(tar::EntryType::Fifo),
        Content::CharDevice(major, minor) => {
            header.set_entry_type(tar::EntryType::Char);
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
        }
        Content::BlockDevice(major, minor) => {
            header.set_entry_type(tar::EntryType::Block);
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
        }
    }
    tar.append_data(&mut header, path, io::empty())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_writes_to_the_root_folder() {
        let mut out = Vec::new();
        Archive::default().write(&mut out).expect("an archive");
        let mut tar = tar::Archive::new(out.as_slice());
        let mut entries = tar.entries().expect("entries");
        let first = entries.next().expect("an entry").expect("a header");
        assert_eq!(first.path_bytes().as_ref(), b"./");
        let header = first.header();
        assert!(header.entry_type().is_dir());
        let owner = (
            header.uid().expect("a user"),
            header.gid().expect("a group"),
        );
        assert_eq!((header.mode().expect("a mode"), owner), (0o755, (0, 0)));
    }
}
