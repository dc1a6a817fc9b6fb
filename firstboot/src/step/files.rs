//! Files of the document; each is written only if it differs.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Step;
use crate::report::Reporter;
use crate::system::accounts;
use crate::system::files::{Attributes, DesiredFile, Root};
use userdata::cloud_config::File;

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
        for file in self.desired()? {
            if !self.root.holds(&file.path, &file.bytes, file.attributes)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        for file in self.root.write_all(&self.desired()?)? {
            log::info!(
                "wrote `{}` (mode {:04o})",
                file.path.display(),
                file.attributes.mode
            );
        }
        Ok(())
    }
}

impl Files {
    /// Each path once: a later entry replaces an earlier one or is appended to it.
    fn desired(&self) -> Result<Vec<DesiredFile>> {
        let mut all = Vec::<DesiredFile>::new();
        for file in &self.files {
            let attributes = self.attributes(file)?;
            let at = all
                .iter()
                .position(|known| known.path == Path::new(&file.path));
            let mut bytes = Vec::new();
            if file.append {
                bytes = match at {
                    Some(at) => all[at].bytes.clone(),
                    None => self.root.read(&file.path)?.unwrap_or_default(),
                };
            }
            // Do not append again what an earlier boot has appended.
            if !file.append || !contains(&bytes, file.content.expose()) {
                bytes.extend(file.content.expose());
            }
            let desired = DesiredFile {
                path: PathBuf::from(&file.path),
                bytes,
                attributes,
            };
            match at {
                Some(at) => all[at] = desired,
                None => all.push(desired),
            }
        }
        Ok(all)
    }

    /// Resolves owners by name; users of the document exist already.
    fn attributes(&self, file: &File) -> Result<Attributes> {
        let mut attributes = Attributes::mode(file.mode);
        if !self.root.is_machine() {
            return Ok(attributes);
        }
        let (user, group) = (&file.owner.user, &file.owner.group);
        if user != "root" {
            let found = accounts::user(&self.root, user)?;
            (attributes.uid, attributes.gid) = found.with_context(|| {
                format!(
                    "the owner of `{}` is user `{user}`, which does not exist",
                    file.path
                )
            })?;
        }
        match group.as_deref() {
            None => {}
            Some("root") => attributes.gid = 0,
            Some(group) => {
                let found = accounts::group(&self.root, group)?;
                attributes.gid = found.with_context(|| {
                    format!(
                        "the group of `{}` is `{group}`, which does not exist",
                        file.path
                    )
                })?;
            }
        }
        Ok(attributes)
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}
