//! Files of the document, each compared before it is written.

use std::fmt;

use anyhow::{Context, Result};
use nix::unistd::{Group, User};

use super::Step;
use crate::report::Reporter;
use crate::system::files::{Attributes, Root};
use userdata::cloudconfig::File;

#[derive(Debug)]
pub struct Files {
    pub root: Root,
    pub files: Vec<File>,
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write the document's {} files", self.files.len())
    }
}

impl Step for Files {
    fn name(&self) -> &'static str {
        "files"
    }

    fn is_done(&self) -> Result<bool> {
        for file in &self.files {
            if !self.is_there(file)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        for file in &self.files {
            let bytes = match self.appended(file)? {
                Some(bytes) => bytes,
                None => file.content.expose().clone(),
            };
            if self
                .root
                .write(&file.path, &bytes, self.attributes(file)?)?
            {
                log::info!("wrote `{}` (mode {:04o})", file.path, file.mode);
            }
        }
        Ok(())
    }
}

impl Files {
    fn is_there(&self, file: &File) -> Result<bool> {
        if !file.append {
            return self
                .root
                .holds(&file.path, file.content.expose(), self.attributes(file)?);
        }
        let present = self.root.read(&file.path)?.unwrap_or_default();
        Ok(contains(&present, file.content.expose()))
    }

    /// The whole new file for one that is appended to; what is there already is not appended again.
    fn appended(&self, file: &File) -> Result<Option<Vec<u8>>> {
        if !file.append {
            return Ok(None);
        }
        let mut bytes = self.root.read(&file.path)?.unwrap_or_default();
        if !contains(&bytes, file.content.expose()) {
            bytes.extend(file.content.expose());
        }
        Ok(Some(bytes))
    }

    /// Owners are names of this machine: a user whom the document makes is there by now.
    fn attributes(&self, file: &File) -> Result<Attributes> {
        let mut attributes = Attributes::mode(file.mode);
        if !self.root.is_machine() {
            return Ok(attributes);
        }
        let (user, group) = (&file.owner.user, &file.owner.group);
        if user != "root" {
            let found = User::from_name(user).ok().flatten();
            let found = found.with_context(|| {
                format!(
                    "`{}` is to belong to user `{user}`, who does not exist",
                    file.path
                )
            })?;
            (attributes.uid, attributes.gid) = (found.uid.as_raw(), found.gid.as_raw());
        }
        match group.as_deref() {
            None => {}
            Some("root") => attributes.gid = 0,
            Some(group) => {
                let found = Group::from_name(group).ok().flatten();
                let found = found.with_context(|| {
                    format!(
                        "`{}` is to belong to group `{group}`, which does not exist",
                        file.path
                    )
                })?;
                attributes.gid = found.gid.as_raw();
            }
        }
        Ok(attributes)
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}
