//! Building the default package from Debian's source of Kubernetes and Debian's programs: `imagegen package`.
//!
//! Every stage is an entry of the cache, so an interrupted build goes on where it was. It does not read packages.

mod assemble;
mod assets;
mod container;
mod kubernetes;
mod output;
mod runtime;
mod tarball;
mod versions;

use std::path::{Path, PathBuf};

use anyhow::Result;

use build_tools::cache::{Cache, Key};
use build_tools::debian_tree::Tree;
use build_tools::process::side_by_side;
use build_tools::progress::Progress;

/// The default package's folder in the cache; made first where it is not there. That takes minutes, a network with a
/// Debian mirror, and root.
pub fn default_package(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    // One waits for a mirror while the other has the processors.
    let (programs, tree) = side_by_side(
        || kubernetes::Programs::ensure(cache, progress),
        || Tree::ensure(cache, &runtime::tree(), progress),
    );
    let (programs, tree) = (programs?, tree?);
    let mut key = Key::new("package", 2)
        .with("programs", programs.identity())
        .with("tree", identity(tree.path()));
    for (path, text) in assets::FILES {
        key = key.with(path, text);
    }
    cache.ensure("packages", &key, |making| {
        assemble::assemble(making, &programs, tree.path(), progress)
    })
}

/// `imagegen package`: the default package as a folder, or as an archive when `output` ends in `.tar` or `.tar.zst`.
/// Whatever is at `output` is replaced only by a whole package.
pub fn write_default(cache: &Cache, output: &Path, progress: &Progress) -> Result<()> {
    let folder = default_package(cache, progress)?;
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
