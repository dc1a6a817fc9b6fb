//! What a package holds: names, kinds, digests; and the rules that every name obeys.
//!
//! Nothing is read or written here. The rules are the same for a folder and an archive, so both have the same digest.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::digest::{self, hex};

/// One thing in a package. Folders are not kept: they are where files are.
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
}

/// How many symlinks may follow one another: the kernel's limit.
const LINKS: usize = 40;

impl Listing {
    /// Adds an entry under a clean name (see [`clean`]).
    pub(super) fn add(&mut self, name: String, kind: Kind) -> Result<()> {
        ensure!(
            !self.entries.contains_key(&name),
            "entry `{name}` is there twice"
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

    /// Bytes of all files.
    pub(super) fn size(&self) -> u64 {
        self.entries
            .values()
            .map(|kind| match kind {
                Kind::File { size, .. } => *size,
                Kind::Symlink { .. } => 0,
            })
            .sum()
    }

    /// The folder that everything lies in, when there is one and it is not the layout's own: sealos packs `kube/`.
    pub(super) fn top(&self) -> Option<String> {
        let tops = self
            .entries
            .keys()
            .map(|name| name.split_once('/').map(|(top, _)| top));
        let mut tops = tops.collect::<std::collections::BTreeSet<_>>().into_iter();
        match (tops.next(), tops.next()) {
            (Some(Some(top)), None)
                if !matches!(
                    top,
                    "bin" | "conf" | "containerd" | "docker" | "hooks" | "images" | "shell"
                ) =>
            {
                Some(format!("{top}/"))
            }
            _ => None,
        }
    }

    /// The listing below `top`; targets of symlinks are relative and stay as they are.
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
        }
    }

    /// Checks what can only be seen when all entries are known: nothing lies below a file or a symlink, and every
    /// symlink leads to something inside.
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

    /// Walks to where a symlink leads, as the kernel would, and refuses every step outside.
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
                        ensure!(links <= LINKS, "symlink `{name}` goes round in circles");
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

    /// SHA-256 over the sorted names, modes and contents: the same for a folder and for any archive of it.
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

/// An entry's name without `./` and doubled slashes; a name that leads out of the package is refused.
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

    /// A name, and the target where it is a symlink.
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
            listing.add((*name).to_owned(), kind).expect("no doubles");
        }
        listing
    }

    #[test]
    fn links_inside_are_kept_and_links_outside_refused() {
        let rows: [(&[Row<'_>], Option<&str>); 8] = [
            (&[("a/b", None), ("a/c", Some("b"))], None),
            (&[("a/b", None), ("c", Some("a"))], None),
            (&[("a/b", Some("/etc/passwd"))], Some("outside")),
            (&[("a/b", Some("../../x"))], Some("outside")),
            // Each link by itself looks harmless; together they climb out.
            (
                &[
                    ("a/b/f", None),
                    ("a/up", Some("..")),
                    ("out", Some("a/up/../x")),
                ],
                Some("outside"),
            ),
            (&[("x", Some("y")), ("y", Some("x"))], Some("circles")),
            (&[("x", Some("nothing"))], Some("not in the package")),
            (
                &[("x", Some("d")), ("d/f", None), ("x/f", None)],
                Some("below `x`"),
            ),
        ];
        for (entries, wanted) in rows {
            let got = listing(entries).check().map_err(|e| e.to_string());
            match wanted {
                None => assert!(got.is_ok(), "{entries:?}: {got:?}"),
                Some(words) => assert!(
                    got.as_ref().is_err_and(|e| e.contains(words)),
                    "{entries:?}: {got:?}"
                ),
            }
        }
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for bad in ["/etc/passwd", "../x", "a/../../x", "a/.."] {
            assert!(clean(bad).is_err(), "{bad}");
        }
        assert_eq!(clean("./a//b/").expect("a plain name"), "a/b");
    }
}
