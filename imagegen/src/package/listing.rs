//! The entries of a package (names, kinds, digests) and the rules for their names.
//!
//! No I/O. Folders and archives have the same rules, and so the same digest.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::digest::{self, hex};

/// One entry of a package. Folders follow from the names of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File {
        size: u64,
        sha256: [u8; 32],
        executable: bool,
    },
    Symlink {
        target: String,
    },
}

#[derive(Debug, Clone, Default)]
pub(super) struct Listing {
    entries: BTreeMap<String, Kind>,
    /// Entries of macOS, which are no part of the package.
    pub(super) macos: Vec<String>,
}

/// The kernel's limit for symlinks in one path.
const LINKS: usize = 40;

impl Listing {
    /// Adds an entry; `name` comes from [`clean`].
    pub(super) fn add(&mut self, name: String, kind: Kind) -> Result<()> {
        ensure!(
            !self.entries.contains_key(&name),
            "entry `{name}` appears twice; pack the folder into a new archive"
        );
        self.entries.insert(name, kind);
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<&Kind> {
        self.entries.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Kind)> {
        self.entries
            .iter()
            .map(|(name, kind)| (name.as_str(), kind))
    }

    /// Total size of all files in bytes.
    pub(super) fn size(&self) -> u64 {
        self.entries
            .values()
            .map(|kind| match kind {
                Kind::File { size, .. } => *size,
                Kind::Symlink { .. } => 0,
            })
            .sum()
    }

    /// The folder at the top that holds everything: sealos packs it in `kube/`. A folder of the
    /// layout is none.
    pub(super) fn top(&self) -> Option<String> {
        // A folder that holds the layout is its top whatever its name, even `bin`.
        let inner = self.entries.keys().find_map(|name| {
            let top = name.strip_suffix("bin/kubeadm")?;
            (!top.is_empty() && top.matches('/').count() == 1).then(|| top.to_owned())
        });
        if inner.is_some() && !self.entries.contains_key("bin/kubeadm") {
            return inner;
        }
        let tops = self
            .entries
            .keys()
            .map(|name| name.split_once('/').map(|(top, _)| top));
        let mut tops = tops.collect::<std::collections::BTreeSet<_>>().into_iter();
        match (tops.next(), tops.next()) {
            (Some(Some(top)), None)
                if !matches!(
                    top,
                    "bin"
                        | "conf"
                        | "containerd"
                        | "docker"
                        | "hooks"
                        | "images"
                        | "lib64"
                        | "shell"
                ) =>
            {
                Some(format!("{top}/"))
            }
            _ => None,
        }
    }

    /// The entries below `top`. Symlinks are relative and need no change.
    pub(super) fn below(self, top: &str) -> Self {
        let entries = self
            .entries
            .into_iter()
            .map(|(name, kind)| match name.strip_prefix(top) {
                Some(rest) => (rest.to_owned(), kind),
                None => (name, kind),
            });
        Self {
            entries: entries.collect(),
            macos: self.macos,
        }
    }

    /// The same entries with other names.
    pub(super) fn renamed(self, names: &BTreeMap<String, String>) -> Result<Self> {
        let mut renamed = Self {
            entries: BTreeMap::new(),
            macos: self.macos,
        };
        for (name, kind) in self.entries {
            let name = names.get(&name).cloned().unwrap_or(name);
            renamed.add(name, kind)?;
        }
        Ok(renamed)
    }

    /// Checks rules over all entries: nothing lies below a file or a symlink, and every symlink
    /// leads to an entry of the package.
    pub(super) fn check(&self) -> Result<()> {
        for (name, kind) in &self.entries {
            let mut above = name.as_str();
            while let Some((folder, _)) = above.rsplit_once('/') {
                ensure!(
                    !self.entries.contains_key(folder),
                    "entry `{name}` lies below `{folder}`, which is not a folder"
                );
                above = folder;
            }
            if let Kind::Symlink { target } = kind {
                self.follow(name, target)?;
            }
        }
        Ok(())
    }

    /// Resolves a symlink as the kernel does and rejects every step outside the package.
    fn follow(&self, name: &str, target: &str) -> Result<()> {
        let mut at: Vec<&str> = name.split('/').collect();
        at.pop();
        let mut rest: Vec<&str> = target.split('/').rev().collect();
        let mut links = 0;
        ensure!(
            !target.starts_with('/'),
            "symlink `{name}` points outside the package: `{target}`"
        );
        while let Some(part) = rest.pop() {
            match part {
                "" | "." => {}
                ".." => ensure!(
                    at.pop().is_some(),
                    "symlink `{name}` points outside the package: `{target}`"
                ),
                part => {
                    at.push(part);
                    if let Some(Kind::Symlink { target: next }) = self.entries.get(&at.join("/")) {
                        links += 1;
                        ensure!(links <= LINKS, "symlink `{name}` is part of a loop");
                        ensure!(
                            !next.starts_with('/'),
                            "symlink `{name}` points outside the package by `{next}`"
                        );
                        at.pop();
                        rest.extend(next.split('/').rev());
                    }
                }
            }
        }
        let end = at.join("/");
        let folder = format!("{end}/");
        let inside = self.entries.contains_key(&end)
            || self
                .entries
                .range(folder.clone()..)
                .next()
                .is_some_and(|(name, _)| name.starts_with(&folder));
        ensure!(
            inside || end.is_empty(),
            "symlink `{name}` points to `{target}`, which is not in the package"
        );
        Ok(())
    }

    /// A digest of the sorted names, modes and contents.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (name, kind) in &self.entries {
            let line = match kind {
                Kind::File {
                    size,
                    sha256,
                    executable,
                } => {
                    format!(
                        "file {} {size} {} {}\0",
                        if *executable { 755 } else { 644 },
                        hex(sha256),
                        name
                    )
                }
                Kind::Symlink { target } => format!("link {target}\0{name}\0"),
            };
            hash.update(line.as_bytes());
        }
        digest::text(hash)
    }
}

/// Whether a program of macOS wrote the entry beside the files of the package: bsdtar's `._NAME`
/// with attributes, Finder's `.DS_Store` and the folder `__MACOSX`.
pub(super) fn is_of_macos(name: &str) -> bool {
    name.split('/').any(|part| part == "__MACOSX")
        || name
            .rsplit('/')
            .next()
            .is_some_and(|base| base.starts_with("._") || base == ".DS_Store")
}

/// Removes `./` and double slashes from a name. A name that leads out of the package is an error.
pub(super) fn clean(name: &str) -> Result<String> {
    ensure!(
        !name.starts_with('/'),
        "entry `{name}` has an absolute name; names in a package are relative"
    );
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => bail!("entry `{name}` leads out of the package"),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name, and the target of a symlink.
    type Row<'a> = (&'a str, Option<&'a str>);

    fn listing(entries: &[Row<'_>]) -> Listing {
        let mut listing = Listing::default();
        for (name, target) in entries {
            let kind = match target {
                Some(target) => Kind::Symlink {
                    target: (*target).to_owned(),
                },
                None => Kind::File {
                    size: 1,
                    sha256: [0; 32],
                    executable: false,
                },
            };
            listing
                .add((*name).to_owned(), kind)
                .expect("distinct names");
        }
        listing
    }

    #[test]
    fn only_symlinks_inside_the_package_are_valid() {
        let rows: [(&[Row<'_>], Option<&str>); 8] = [
            (&[("a/b", None), ("a/c", Some("b"))], None),
            (&[("a/b", None), ("c", Some("a"))], None),
            (&[("a/b", Some("/etc/passwd"))], Some("outside")),
            (&[("a/b", Some("../../x"))], Some("outside")),
            // Each link is harmless; the combination leads out.
            (
                &[
                    ("a/b/f", None),
                    ("a/up", Some("..")),
                    ("out", Some("a/up/../x")),
                ],
                Some("outside"),
            ),
            (&[("x", Some("y")), ("y", Some("x"))], Some("loop")),
            (&[("x", Some("nothing"))], Some("not in the package")),
            (
                &[("x", Some("d")), ("d/f", None), ("x/f", None)],
                Some("below `x`"),
            ),
        ];
        for (entries, expected) in rows {
            let got = listing(entries).check().map_err(|e| e.to_string());
            match expected {
                None => assert!(got.is_ok(), "{entries:?}: {got:?}"),
                Some(words) => assert!(
                    got.as_ref().is_err_and(|e| e.contains(words)),
                    "{entries:?}: {got:?}"
                ),
            }
        }
    }

    #[test]
    fn names_outside_the_package_are_refused() {
        for bad in ["/etc/passwd", "../x", "a/../../x", "a/.."] {
            assert!(clean(bad).is_err(), "{bad}");
        }
        assert_eq!(clean("./a//b/").expect("a plain name"), "a/b");
    }
}
