//! The configuration of systemd-networkd.
//!
//! Writes the files that `userdata` makes from the document, and reloads networkd. `addresses.rs`
//! waits for the addresses.

use std::fmt;

use anyhow::Result;

use super::Step;
use crate::host::HostNetwork;
use crate::report::Reporter;
use crate::system::files::{Attributes, DesiredFile, Root};
use crate::system::machine::{Identity, Link};
use crate::system::{command, systemd};

const DIRECTORY: &str = "/etc/systemd/network";
/// The prefixes of our files, which distinguish those of an earlier document from foreign files.
const PREFIXES: [&str; 2] = ["10-firstlight-", "90-firstlight-"];

#[derive(Debug)]
pub struct Network {
    pub root: Root,
    pub network: HostNetwork,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configure the network")
    }
}

impl Step for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(self.stale()?.is_empty() && self.files_are_there()?)
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        for name in self.stale()? {
            self.root.remove(format!("{DIRECTORY}/{name}"))?;
            log::info!("removed `{DIRECTORY}/{name}`");
        }
        // All at once: a flush of the disk for each would take longer than all else before the
        // network.
        let files = self.network.files.iter().map(|(name, text)| DesiredFile {
            path: path(name).into(),
            bytes: text.clone().into_bytes(),
            attributes: Attributes::mode(0o644),
        });
        for file in self.root.write_all(&files.collect::<Vec<_>>())? {
            log::info!("wrote `{}`", file.path.display());
        }
        if self.root.is_machine() {
            let names = &self.network.names;
            for (old, new) in renames(&Identity::read(&self.root)?.links, names) {
                // udev does it at the next boot if this fails; networkd knows both names.
                if let Err(error) = command::run("ip", &["link", "set", "dev", &old, "name", &new])
                {
                    log::warn!("renaming `{old}` to `{new}`: {error:#}");
                }
            }
            systemd::reload("systemd-networkd.service")?;
        }
        Ok(())
    }
}

impl Network {
    fn files_are_there(&self) -> Result<bool> {
        for (name, text) in &self.network.files {
            if !self
                .root
                .holds(path(name), text.as_bytes(), Attributes::mode(0o644))?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether an earlier document left files that this one does not have.
    pub fn has_stale_files(&self) -> Result<bool> {
        Ok(!self.stale()?.is_empty())
    }

    /// Our files that this document does not name.
    fn stale(&self) -> Result<Vec<String>> {
        let wanted: Vec<_> = self.network.files.iter().map(|(name, _)| name).collect();
        let names = self.root.list(DIRECTORY)?;
        Ok(names
            .into_iter()
            .filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
            .filter(|name| !wanted.contains(&name))
            .collect())
    }
}

/// Old and new name of each link that udev did not rename, because the file with the new name did
/// not exist yet.
fn renames(links: &[Link], names: &[(String, String)]) -> Vec<(String, String)> {
    let pairs = names.iter().filter_map(|(mac, new)| {
        let link = links.iter().find(|link| link.identity() == mac)?;
        let taken = links.iter().any(|link| link.name == *new);
        (!taken).then(|| (link.name.clone(), new.clone()))
    });
    pairs.collect()
}

fn path(name: &str) -> String {
    format!("{DIRECTORY}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_renamed_by_their_permanent_address() {
        let link = |name: &str, mac: &str, permanent: Option<&str>| Link {
            name: name.to_owned(),
            mac: mac.to_owned(),
            permanent: permanent.map(str::to_owned),
        };
        let links = [
            link("enp1s0", "02:00:00:00:00:77", Some("52:54:00:00:07:01")),
            link("enp2s0", "52:54:00:00:07:02", None),
            link("lan2", "52:54:00:00:07:03", None),
        ];
        let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        let names = [
            pair("52:54:00:00:07:01", "lan0"),
            // Another link has the name.
            pair("52:54:00:00:07:02", "lan2"),
            pair("52:54:00:00:07:03", "lan2"),
            pair("52:54:00:00:07:04", "lan4"),
        ];
        assert_eq!(renames(&links, &names), [pair("enp1s0", "lan0")]);
    }
}
