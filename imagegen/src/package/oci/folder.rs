//! An image archive that was unpacked into a folder.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::super::listing;
use super::DESCRIPTION;
use super::describe::Entries;

/// The folder of one OCI layout or docker archive.
#[derive(Debug)]
pub(super) struct Folder<'a>(pub(super) &'a Path);

impl Folder<'_> {
    /// The file of an entry. Descriptions name entries, and none may lead out of the folder.
    pub(super) fn path(&self, name: &str) -> Result<PathBuf> {
        Ok(self.0.join(listing::clean(name)?))
    }
}

impl Entries for Folder<'_> {
    fn size(&self, name: &str) -> Option<u64> {
        let found = self.path(name).ok()?.metadata().ok()?;
        found.is_file().then_some(found.len())
    }

    fn description(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path(name)?;
        let file = File::open(path).with_context(|| format!("reading `{name}`"))?;
        let mut bytes = Vec::new();
        file.take(DESCRIPTION + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("reading `{name}`"))?;
        ensure!(
            bytes.len() as u64 <= DESCRIPTION,
            "`{name}` has more bytes than a description may have"
        );
        Ok(bytes)
    }
}
