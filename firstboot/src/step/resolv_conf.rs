//! `/etc/resolv.conf`: the name servers of the document, then those that networkd learns by DHCP
//! and router advertisements.
//!
//! networkd hands its servers to systemd-resolved only, which the image does not have. A unit
//! follows its state and runs `firstboot resolv-conf`, because a lease may come or change at any
//! time.

use std::fmt::Write;
use std::net::IpAddr;

use anyhow::Result;

use crate::host::Host;
use crate::system::files::{Attributes, Root};
use crate::system::systemd;

const PATH: &str = "/etc/resolv.conf";
const MODE: Attributes = Attributes {
    mode: 0o644,
    uid: 0,
    gid: 0,
};
/// The document's part, for `firstboot resolv-conf`.
const OF_DOCUMENT: &str = "/var/lib/firstlight/resolvers";
/// What networkd knows of all its links.
const STATE: &str = "/run/systemd/netif/state";
const HEADER: &str = "# Written by firstboot from the document's network-config and its leases.\n";
/// kubelet and CoreDNS refuse to start without a file.
const NOTHING: &str = "# No name server: every host of the cluster is in /etc/hosts.\n";

const UNITS: &str = "/etc/systemd/system";
const PATH_UNIT: &str = "firstlight-resolv-conf.path";
const UNIT_FILES: [(&str, &str); 2] = [
    (
        PATH_UNIT,
        "[Unit]\nDescription=Name servers of leases for /etc/resolv.conf\n\n\
         [Path]\nPathChanged=/run/systemd/netif/state\n\n\
         [Install]\nWantedBy=paths.target\n",
    ),
    (
        "firstlight-resolv-conf.service",
        "[Unit]\nDescription=Name servers of leases for /etc/resolv.conf\n\
         StartLimitIntervalSec=0\n\n\
         [Service]\nType=oneshot\nExecStart=/usr/bin/firstboot resolv-conf\n",
    ),
];

/// The resolvers of one host.
#[derive(Debug, Clone)]
pub struct Resolvers {
    root: Root,
    /// Of the document: servers and domains to search.
    document: Servers,
    /// Whether leases may bring more.
    leases: bool,
    /// The document writes the file itself.
    written_by_document: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Servers {
    servers: Vec<String>,
    search: Vec<String>,
}

impl Resolvers {
    pub fn new(root: &Root, host: &Host) -> Self {
        let written_by_document = host.files.iter().any(|file| file.path == PATH);
        Self {
            root: root.clone(),
            document: Servers {
                servers: host.nameservers.iter().map(IpAddr::to_string).collect(),
                search: host.search.clone(),
            },
            leases: host.has_leases && !written_by_document,
            written_by_document,
        }
    }

    pub fn are_done(&self) -> Result<bool> {
        let files = self.files();
        for (path, text) in &files {
            if !self.root.holds(path, text.as_bytes(), MODE)? {
                return Ok(false);
            }
        }
        if files.is_empty() && self.is_stale() {
            return Ok(false);
        }
        let written = match self.wanted()? {
            Some(text) => self.root.holds(PATH, text.as_bytes(), MODE)?,
            None => true,
        };
        let follows = !self.leases || !self.root.is_machine() || systemd::is_active(PATH_UNIT)?;
        Ok(written && follows)
    }

    pub fn apply(&self) -> Result<()> {
        for (path, text) in self.files() {
            self.root.write(path, text.as_bytes(), MODE)?;
        }
        if self.leases && self.root.is_machine() {
            systemd::enable(PATH_UNIT)?;
            systemd::start(PATH_UNIT)?;
        }
        if !self.leases && self.is_stale() {
            self.remove()?;
        }
        // Last: a lease may have come before the unit.
        if let Some(text) = self.wanted()? {
            self.root.write(PATH, text.as_bytes(), MODE)?;
        }
        Ok(())
    }

    /// The units that follow leases, and what they need to know of the document.
    fn files(&self) -> Vec<(String, String)> {
        if !self.leases {
            return Vec::new();
        }
        let (servers, search) = (&self.document.servers, &self.document.search);
        let text = format!("DNS={}\nDOMAINS={}\n", servers.join(" "), search.join(" "));
        let units = UNIT_FILES.map(|(name, text)| (format!("{UNITS}/{name}"), text.to_owned()));
        let mut files = vec![(OF_DOCUMENT.to_owned(), text)];
        files.extend(units);
        files
    }

    /// Whether an earlier document had leases.
    fn is_stale(&self) -> bool {
        self.root.exists(OF_DOCUMENT)
    }

    fn remove(&self) -> Result<()> {
        if self.root.is_machine() {
            systemd::disable(PATH_UNIT)?;
            systemd::stop(PATH_UNIT)?;
        }
        for (name, _) in UNIT_FILES {
            self.root.remove(format!("{UNITS}/{name}"))?;
        }
        // Last, so that an interrupted try is repeated.
        self.root.remove(OF_DOCUMENT)
    }

    /// `None`: there is no name server, and an existing file stays.
    fn wanted(&self) -> Result<Option<String>> {
        if self.written_by_document {
            return Ok(None);
        }
        let mut all = self.document.clone();
        if self.leases {
            all.add(learned(&self.root)?);
        }
        Ok(match all.text() {
            Some(text) => Some(text),
            None if self.root.exists(PATH) => None,
            None => Some(NOTHING.to_owned()),
        })
    }
}

impl Servers {
    fn add(&mut self, others: Servers) {
        for server in others.servers {
            if !self.servers.contains(&server) {
                self.servers.push(server);
            }
        }
        for domain in others.search {
            if !self.search.contains(&domain) {
                self.search.push(domain);
            }
        }
    }

    fn text(&self) -> Option<String> {
        if self.servers.is_empty() {
            return None;
        }
        let mut text = HEADER.to_owned();
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        Some(text)
    }

    /// Lines like those of networkd's state.
    fn parse(text: &str) -> Self {
        let words = |key: &'static str| {
            let values = text.lines().filter_map(move |line| line.strip_prefix(key));
            values.flat_map(str::split_whitespace)
        };
        // A server with a port or a name for TLS has no place in the file.
        let plain = |server: &&str| {
            let address = server.split('%').next().unwrap_or_default();
            address.parse::<IpAddr>().is_ok()
        };
        Self {
            servers: words("DNS=").filter(plain).map(str::to_owned).collect(),
            search: words("DOMAINS=").map(str::to_owned).collect(),
        }
    }
}

fn learned(root: &Root) -> Result<Servers> {
    let state = root.read(STATE)?.unwrap_or_default();
    Ok(Servers::parse(&String::from_utf8_lossy(&state)))
}

/// `firstboot resolv-conf`: brings the file up to date with the leases. Until the state is what was
/// written, because a change while this runs may not start the unit again.
pub fn update(root: &Root) -> Result<()> {
    let document = root.read(OF_DOCUMENT)?.unwrap_or_default();
    let document = Servers::parse(&String::from_utf8_lossy(&document));
    loop {
        let learned_before = learned(root)?;
        let mut all = document.clone();
        all.add(learned_before.clone());
        let text = all.text().unwrap_or_else(|| NOTHING.to_owned());
        root.write(PATH, text.as_bytes(), MODE)?;
        if learned(root)? == learned_before {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Root, path: &str, text: &str) {
        root.write(path, text.as_bytes(), MODE).unwrap();
    }

    #[test]
    fn lease_comes_after_the_document() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        put(&root, OF_DOCUMENT, "DNS=192.0.2.1\nDOMAINS=a.example\n");
        let state = "# This is private data. Do not parse.\nOPER_STATE=routable\n\
            DNS=192.0.2.53 192.0.2.1 fe80::1%eth0 192.0.2.9:5353 192.0.2.8#dns.example\n\
            DOMAINS=b.example a.example\nROUTE_DOMAINS=c.example\n";
        put(&root, STATE, state);
        update(&root).unwrap();
        let text = String::from_utf8(root.read(PATH).unwrap().unwrap()).unwrap();
        assert_eq!(
            text,
            format!(
                "{HEADER}nameserver 192.0.2.1\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\n\
                 search a.example b.example\n"
            )
        );
    }

    #[test]
    fn file_without_a_server_is_valid() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        update(&root).unwrap();
        assert_eq!(root.read(PATH).unwrap().unwrap(), NOTHING.as_bytes());
    }

    #[test]
    fn units_follow_networkd() {
        let [(_, path), (service, _)] = UNIT_FILES;
        assert!(path.contains(&format!("PathChanged={STATE}\n")));
        assert_eq!(PATH_UNIT.replace(".path", ".service"), service);
    }
}
