//! Where a package has its images: archives, and archives that were unpacked into folders.

use anyhow::{Context as _, Result};

use super::Package;
use super::listing::{self, Kind};
use super::oci::describe::{self, Described, Entries};
use super::oci::index::beside;
use super::probe::Contents;

/// The folder of a package with images.
const IMAGES: &str = "images/";

impl Package {
    /// Names of the image archives of `images/`, whatever their names, and of the folders that are
    /// one: an OCI layout, or a docker archive that was unpacked.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let folders = self.image_folders();
        let archives = self.names().filter(|name| {
            let contents = self.contents_of(name);
            matches!(contents, Some(Contents::Archive(inside)) if inside.images.is_some())
        });
        let below = |name: &str| is_below(name, &self.image_folders());
        let archives: Vec<&str> = archives
            .filter(|name| name.starts_with(IMAGES) && !below(name))
            .collect();
        folders.into_iter().chain(archives)
    }

    /// Folders of `images/`, or this itself, with the files of one image archive. The outermost
    /// counts: a layer may hold another.
    pub(super) fn image_folders(&self) -> Vec<&str> {
        let mut folders: Vec<&str> = Vec::new();
        for name in self.names().filter(|name| name.starts_with(IMAGES)) {
            let Some((folder, base)) = name.rsplit_once('/') else {
                continue;
            };
            let has = |file: &str| self.contains(&format!("{folder}/{file}"));
            let found = match base {
                "oci-layout" => has("index.json"),
                // docker's own description, and not some other list in JSON.
                "manifest.json" => {
                    let bytes = self.file(name).ok().flatten().unwrap_or_default();
                    let list = serde_json::from_slice::<serde_json::Value>(&bytes);
                    list.is_ok_and(|list| list[0]["Layers"].is_array())
                }
                _ => false,
            };
            if found && !folders.contains(&folder) && !is_below(folder, &folders) {
                folders.push(folder);
            }
        }
        folders
    }

    /// The images of one of [`Self::image_folders`].
    pub(super) fn images_of_folder(&self, folder: &str) -> Result<Vec<Described>> {
        describe::images(&Folder {
            package: self,
            folder,
        })
    }
}

/// Whether `name` lies in one of `folders`.
pub(super) fn is_below(name: &str, folders: &[&str]) -> bool {
    let inside = |folder: &&str| {
        name.strip_prefix(*folder)
            .is_some_and(|r| r.starts_with('/'))
    };
    folders.iter().any(inside)
}

/// An unpacked archive as the package lists it.
struct Folder<'a> {
    package: &'a Package,
    folder: &'a str,
}

impl Folder<'_> {
    /// The name in the package of an entry, which may be a link to another one.
    fn resolve(&self, name: &str) -> Option<(String, u64)> {
        let mut name = format!("{}/{}", self.folder, listing::clean(name).ok()?);
        for _ in 0..8 {
            match self.package.listing.get(&name)? {
                Kind::File { size, .. } => return Some((name, *size)),
                Kind::Symlink { target } => name = beside(&name, target)?,
            }
        }
        None
    }
}

impl Entries for Folder<'_> {
    fn size(&self, name: &str) -> Option<u64> {
        self.resolve(name).map(|(_, size)| size)
    }

    fn description(&self, name: &str) -> Result<Vec<u8>> {
        let missing = || format!("it has no `{name}`");
        let (file, _) = self.resolve(name).with_context(missing)?;
        self.package.file(&file)?.with_context(missing)
    }
}
