//! The crates in firstboot and lvscare, from the lock file that they are built with.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Components, escaped, library};
use crate::image::programs;

const LOCK: &str = include_str!("../../../../Cargo.lock");

#[derive(Deserialize)]
struct Lock {
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    #[serde(default)]
    dependencies: Vec<String>,
}

/// Adds the programs and what they depend on. The lock file does not tell what only their tests and
/// builds use, so that is named too.
pub(super) fn add(components: &mut Components) -> Result<()> {
    let lock: Lock = toml::from_str(LOCK).context("reading Cargo.lock")?;
    let mut versions: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
    for package in &lock.package {
        versions.entry(&package.name).or_default().push(package);
    }
    let mut open: Vec<String> = programs::NAMES
        .iter()
        .map(|&name| name.to_owned())
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(wanted) = open.pop() {
        // `name`, or `name version` where there are several.
        let (name, version) = wanted.split_once(' ').unwrap_or((&wanted, ""));
        let version = version.split(' ').next().unwrap_or_default();
        let packages = versions.get(name).map(Vec::as_slice).unwrap_or_default();
        let package = packages
            .iter()
            .find(|package| version.is_empty() || package.version == version)
            .with_context(|| format!("Cargo.lock lacks `{wanted}`"))?;
        if !seen.insert((&package.name, &package.version)) {
            continue;
        }
        let purl = format!(
            "pkg:cargo/{}@{}",
            escaped(&package.name),
            escaped(&package.version)
        );
        library(&package.name, &package.version, purl, components);
        open.extend(package.dependencies.iter().cloned());
    }
    Ok(())
}
