//! Versions of Debian packages, read from the changelogs that every package carries.
//!
//! The package database is not asked: trees that were only extracted have none.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use flate2::read::GzDecoder;

/// The version of `package` in the tree: `3.5.16-4`.
pub(super) fn of_package(tree: &Path, package: &str) -> Result<String> {
    let folder = tree.join("usr/share/doc").join(package);
    // A rebuild without source changes has a changelog of its own, and is the later version.
    for name in [
        "changelog.Debian.amd64.gz",
        "changelog.Debian.gz",
        "changelog.gz",
    ] {
        let path = folder.join(name);
        let Ok(packed) = fs::read(&path) else {
            continue;
        };
        let mut text = String::new();
        GzDecoder::new(packed.as_slice())
            .take(64 << 10)
            .read_to_string(&mut text)
            .with_context(|| format!("reading `{}`", path.display()))?;
        return of_changelog(&text)
            .with_context(|| format!("no version in the first line of `{}`", path.display()));
    }
    bail!(
        "no Debian package `{package}` in the tree `{}`",
        tree.display()
    )
}

/// The version in a changelog's first line: `etcd (3.5.16-4) unstable; urgency=medium`.
pub(super) fn of_changelog(text: &str) -> Option<String> {
    let (_, rest) = text.lines().next()?.split_once('(')?;
    rest.split_once(')').map(|(version, _)| version.to_owned())
}

/// The upstream part of a Debian version: without epoch, revision and repacking marks.
pub(super) fn upstream(debian: &str) -> String {
    let version = debian.split_once(':').map_or(debian, |(_, rest)| rest);
    let version = version
        .rsplit_once('-')
        .map_or(version, |(upstream, _)| upstream);
    let version = version
        .split_once("+really")
        .map_or(version, |(_, really)| really);
    version
        .split(['+', '~'])
        .next()
        .unwrap_or(version)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_versions_are_found_in_debians() {
        for (debian, wanted) in [
            ("1.20.5+really1.20.2-1.1+deb12u1", "1.20.2"),
            ("3.5.16-4", "3.5.16"),
            ("1.7.24~ds1-6+deb13u1", "1.7.24"),
            ("1:1.4.8-2", "1.4.8"),
            ("1.1.15+ds1-2+b4", "1.1.15"),
        ] {
            assert_eq!(upstream(debian), wanted, "{debian}");
        }
    }

    #[test]
    fn a_changelogs_first_line_names_the_version() {
        assert_eq!(
            of_changelog("etcd (3.5.16-4) unstable; urgency=medium\n").as_deref(),
            Some("3.5.16-4")
        );
        assert_eq!(of_changelog("nothing here\n"), None);
    }
}
