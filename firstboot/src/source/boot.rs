//! The document that the initrd got from the boot server or the boot medium.

use std::path::Path;

use anyhow::Result;

use super::{Source, SourceResult, directory};
use crate::live::{Record, document};
use crate::system::files::Root;
use crate::system::machine::Identity;

/// Found only on a machine that booted from a server or a medium.
#[derive(Debug)]
pub struct BootOrigin;

impl Source for BootOrigin {
    fn name(&self) -> &'static str {
        "boot-origin"
    }

    fn read(&self, machine: &Identity) -> Result<SourceResult> {
        read(&Root::new("/"), machine)
    }
}

fn read(root: &Root, machine: &Identity) -> Result<SourceResult> {
    let Some(record) = Record::read(root)? else {
        let reason = "this machine boots from its own disk".to_owned();
        return Ok(SourceResult::NotFound(reason));
    };
    match record.no_document {
        Some(reason) => Ok(SourceResult::NotFound(reason)),
        None => {
            let folder = root.join(Path::new(document::FOLDER));
            directory::read(&folder, record.origin.trim_end_matches('/'), machine)
        }
    }
}
