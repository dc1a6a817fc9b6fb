//! Debian's packages, from the database of dpkg, which the image itself does not have.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use build_tools::debian_tree::Tree;

use super::{Components, escaped, library};
use crate::image::archive::{Archive, Placed};

const STATUS: &str = "var/lib/dpkg/status";

/// Packages of one tree.
pub(in crate::image) struct Packages(Vec<Package>);

struct Package {
    name: String,
    version: String,
    architecture: String,
    /// With its version in parentheses if that is another one.
    source: Option<String>,
}

impl Packages {
    /// All of a tree that is a tar file.
    pub(in crate::image) fn of_tar(tar: &Path) -> Result<Self> {
        let file =
            std::fs::File::open(tar).with_context(|| format!("opening `{}`", tar.display()))?;
        let mut archive = Archive::default();
        archive.add_tar(&Arc::new(file), |path| {
            (path == STATUS).then(|| Placed::At(path.to_owned()))
        })?;
        let status = archive.read(STATUS)?;
        Ok(Self(parse(&String::from_utf8_lossy(&status))))
    }

    /// Those of a tree that `wanted` names.
    pub(in crate::image) fn of_tree(tree: &Tree, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let path = tree.path().join(STATUS);
        let status = std::fs::read_to_string(&path)
            .with_context(|| format!("reading `{}`", path.display()))?;
        let packages = parse(&status).into_iter();
        Ok(Self(
            packages.filter(|package| wanted(&package.name)).collect(),
        ))
    }

    pub(super) fn add(&self, components: &mut Components) {
        for package in &self.0 {
            // Scanners look for advisories of the source.
            let source = package.source.as_ref().map(|source| {
                let name = source.split(' ').next().unwrap_or(source);
                format!("&upstream={}", escaped(name))
            });
            let purl = format!(
                "pkg:deb/debian/{}@{}?arch={}&distro=debian-13{}",
                escaped(&package.name),
                escaped(&package.version),
                escaped(&package.architecture),
                source.unwrap_or_default()
            );
            library(&package.name, &package.version, purl, components);
        }
    }
}

/// Installed packages.
fn parse(status: &str) -> Vec<Package> {
    let field = |stanza: &str, name: &str| {
        stanza.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(':')?;
            Some(value.trim().to_owned())
        })
    };
    status
        .split("\n\n")
        .filter(|stanza| field(stanza, "Status").is_some_and(|s| s.ends_with(" installed")))
        .filter_map(|stanza| {
            Some(Package {
                name: field(stanza, "Package")?,
                version: field(stanza, "Version")?,
                architecture: field(stanza, "Architecture")?,
                source: field(stanza, "Source"),
            })
        })
        .collect()
}
