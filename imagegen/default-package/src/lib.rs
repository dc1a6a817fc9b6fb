//! Building a default package: `imagegen package`.
//!
//! Kubernetes and what it needs are built from Go modules, or for 1.20 from Debian's source. Every
//! stage is an entry of the cache, so an interrupted build goes on where it was. This crate does
//! not read packages.

mod assemble;
mod assets;
pub mod conformance;
mod container;
mod debian_kubernetes;
mod modules;
mod output;
mod parts;
mod release;
mod runtime;
mod supply;
mod tarball;
mod versions;

use std::path::{Path, PathBuf};

use anyhow::Result;

use build_tools::cache::{Cache, Key};
use build_tools::progress::Progress;

pub use assemble::kubeadm_configuration;
pub use output::{check as check_output, write as write_output};
pub use supply::{
    RELEASES, Releases, SUPPLIED_CRICTL, Supplies, is_own_script_line, supplied_plugins,
    supplied_version, supply_recipe,
};

use parts::Parts;
use release::Release;

/// The default package's folder in the cache, of the newest Kubernetes; made first where it is not
/// there. That takes minutes, a network with a Debian mirror and the Go module proxy, and root.
pub fn default_package(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    make(Release::newest(), cache, progress)
}

/// The minor releases of Kubernetes that can be built, newest first: `1.37`.
pub fn releases() -> impl Iterator<Item = &'static str> {
    release::RELEASES.iter().map(|release| release.minor)
}

/// Like [`default_package`], of another release: `1.34`, `v1.34.4`.
pub fn package_of(kubernetes: &str, cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    make(Release::find(kubernetes)?, cache, progress)
}

/// The code that decides a package's bytes is an input of it, so that an edit of it never leaves an
/// old package in use.
const ASSEMBLY: &[(&str, &str)] = &[
    ("assemble.rs", include_str!("assemble.rs")),
    ("container.rs", include_str!("container.rs")),
    ("release.rs", include_str!("release.rs")),
    ("runtime.rs", include_str!("runtime.rs")),
    ("tarball.rs", include_str!("tarball.rs")),
];

fn make(release: &Release, cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let parts = Parts::ensure(release, cache, progress)?;
    let mut key = Key::new("package", 3).with("parts", parts.identity());
    let texts = assets::FILES
        .iter()
        .chain([&assets::CONTAINERD_1, &assets::CONTAINERD_2]);
    for (path, text) in texts.chain(ASSEMBLY) {
        key = key.with(path, text);
    }
    cache.ensure("packages", &key, |making| {
        assemble::assemble(making, release, &parts, progress)
    })
}

/// `imagegen package`: a default package as a folder, or as an archive when `output` ends in `.tar`
/// or `.tar.zst`. Whatever is at `output` is replaced only by a whole package. Without `kubernetes`
/// it is of the newest release.
pub fn write_default(
    kubernetes: Option<&str>,
    cache: &Cache,
    output: &Path,
    progress: &Progress,
) -> Result<()> {
    let folder = match kubernetes {
        Some(kubernetes) => package_of(kubernetes, cache, progress)?,
        None => default_package(cache, progress)?,
    };
    output::write(&folder, output, progress)
}

/// A cache entry is named by what it was made from; where the cache lies does not matter.
fn identity(entry: &Path) -> String {
    entry
        .components()
        .rev()
        .filter_map(|part| part.as_os_str().to_str())
        .find(|part| part.len() == 32 && part.bytes().all(|b| b.is_ascii_hexdigit()))
        .map_or_else(|| entry.display().to_string(), str::to_owned)
}
