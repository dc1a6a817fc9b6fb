//! A machine whose root comes from a boot server or a boot medium, not from a disk of its own.
//!
//! In the initrd, [`root`] gets the verified root and the document, and [`state`] decides where
//! `/var` is. The running system reads what they did in the [`Record`]. The kernel's command line
//! has the root hash, so that no other root runs, whatever a server sends.

pub mod document;
pub mod fetch;
pub mod medium;
pub mod root;
pub mod state;

use std::io::Write;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use userdata::node_config::Role;

use crate::system::files::{Attributes, Root};
use crate::wait::Backoff;

/// What the initrd did, for the running system. On a tmpfs.
const RECORD: &str = "/run/firstlight/live.json";

/// The value of `firstlight.root=` that stands for the medium that booted.
const MEDIUM: &str = "medium";

/// What the kernel's command line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub place: Place,
    pub root_hash: String,
    /// SHA-256 of the EFI program that boots a disk; empty if there is none.
    pub disk_digest: String,
    /// The state partition may be made on the only blank disk.
    pub blank_disk: bool,
    /// A master may have its state in memory.
    pub memory_master: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The URL that the names of files follow, with its last slash.
    Server(String),
    Medium,
}

/// Where this machine's root came from, its document, and where its state is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// A URL, or the device of the medium.
    pub origin: String,
    /// Why there is no document from there; `None` if there is one.
    pub no_document: Option<String>,
    pub state: Option<State>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "place", rename_all = "lowercase")]
pub enum State {
    Disk {
        device: String,
    },
    /// With the reason why no disk serves.
    Memory {
        mib: u64,
        reason: String,
    },
}

impl Settings {
    /// `None` for a machine that boots from its own disk.
    pub fn read(root: &Root) -> Result<Option<Self>> {
        let line = root.read("/proc/cmdline")?.unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&line))
    }

    fn parse(line: &str) -> Result<Option<Self>> {
        let value = |key: &str| {
            let mut words = line.split_ascii_whitespace().rev();
            words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        };
        let place = match value("firstlight.root") {
            None => return Ok(None),
            Some(MEDIUM) => Place::Medium,
            Some(url) if url.starts_with("http://") => {
                let (base, _) = url.rsplit_once('/').unwrap_or((url, ""));
                if base.len() < "http://x".len() {
                    bail!("`firstlight.root={url}` has no server; write `http://ADDRESS:PORT/`");
                }
                Place::Server(format!("{base}/"))
            }
            Some(other) => bail!(
                "`firstlight.root={other}` is neither `{MEDIUM}` nor a URL with `http://`; correct \
                 the boot script"
            ),
        };
        Ok(Some(Self {
            place,
            root_hash: value("roothash").unwrap_or_default().to_owned(),
            disk_digest: value("firstlight.disk").unwrap_or_default().to_owned(),
            blank_disk: value("firstlight.blank-disk") == Some("yes"),
            memory_master: value("firstlight.memory-master") == Some("yes"),
        }))
    }

    /// As [`read`](Self::read), for commands that only such a machine runs.
    fn require(root: &Root) -> Result<Self> {
        let settings = Self::read(root)?;
        settings.context("this machine boots from its own disk: `firstlight.root=` is not set")
    }
}

impl Record {
    /// `None` for a machine that boots from its own disk.
    pub fn read(root: &Root) -> Result<Option<Self>> {
        let Some(bytes) = root.read(RECORD)? else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&bytes);
        record
            .map(Some)
            .with_context(|| format!("reading `{RECORD}`"))
    }

    fn write(&self, root: &Root) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).context("writing the record of this boot")?;
        root.write(RECORD, &bytes, Attributes::mode(0o644))?;
        Ok(())
    }

    /// For status and console.
    pub fn note(&self) -> String {
        let root = format!("the root is from {}", self.origin);
        match &self.state {
            None => root,
            Some(State::Disk { device }) => format!("{root}, state is on /dev/{device}"),
            Some(State::Memory { mib, reason }) => format!(
                "{root}, state is in memory ({mib} MiB) and lost at power-off, because {reason}"
            ),
        }
    }
}

/// Refuses a master whose etcd would be in memory, unless the topology allows it.
pub fn check_role(root: &Root, role: Option<Role>) -> Result<()> {
    let Some(Record {
        state: Some(State::Memory { reason, .. }),
        ..
    }) = Record::read(root)?
    else {
        return Ok(());
    };
    let allowed = Settings::read(root)?.is_some_and(|settings| settings.memory_master);
    match role {
        Some(Role::Master0 | Role::Master) if !allowed => bail!(
            "this master has its state in memory, and etcd's data would be lost at power-off, \
             because {reason}; attach a blank disk and set `image.diskless.blank_disks`, install \
             the image with `firstboot install`, or set `image.diskless.memory_masters`"
        ),
        _ => Ok(()),
    }
}

/// Says on journal and console what the initrd waits for: when it changes, and again at times.
#[derive(Debug)]
struct Waiting {
    backoff: Backoff,
    last: String,
    repeats: u32,
}

impl Waiting {
    const REPEAT: u32 = 20;

    fn new(seed: &str) -> Self {
        Self {
            backoff: Backoff::new(seed),
            last: String::new(),
            repeats: 0,
        }
    }

    fn pause(&mut self, reason: &str) {
        if self.last != reason || self.repeats >= Self::REPEAT {
            say(&format!("waiting: {reason}"));
            self.last = reason.to_owned();
            self.repeats = 0;
        }
        self.repeats += 1;
        self.backoff.pause();
    }
}

/// A line for journal and console, where the units of the initrd send it.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "firstboot: {line}");
}

/// Total and free memory in MiB.
fn memory(root: &Root) -> Result<(u64, u64)> {
    let text = root.read("/proc/meminfo")?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let field = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_ascii_whitespace().next());
        let kib: Option<u64> = number.and_then(|number| number.parse().ok());
        Ok(kib.with_context(|| format!("`/proc/meminfo` has no `{name}`"))? >> 10)
    };
    Ok((field("MemTotal:")?, field("MemAvailable:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_names_the_place_of_the_root() {
        let parse = |line: &str| Settings::parse(line).unwrap().unwrap();
        assert_eq!(Settings::parse("root=/dev/mapper/root ro").unwrap(), None);
        let found = parse("roothash=ab firstlight.root=http://10.0.0.1:8069/boot.ipxe x\n");
        let expected = Place::Server("http://10.0.0.1:8069/".to_owned());
        assert_eq!((found.place, found.root_hash.as_str()), (expected, "ab"));
        assert!(!found.blank_disk && !found.memory_master);
        let found = parse("firstlight.blank-disk=yes firstlight.root=medium");
        assert_eq!((found.place, found.blank_disk), (Place::Medium, true));
        for (wrong, why) in [
            ("firstlight.root=disk", "neither `medium`"),
            ("firstlight.root=https://a/b", "http://"),
            ("firstlight.root=http:///b", "no server"),
        ] {
            let error = Settings::parse(wrong).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn master_in_memory_is_refused_unless_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let put = |path: &str, text: &str| {
            root.write(path, text.as_bytes(), Attributes::mode(0o644))
                .unwrap();
        };
        let mut record = Record {
            origin: "http://10.0.0.1/".to_owned(),
            ..Record::default()
        };
        assert!(check_role(&root, Some(Role::Master)).is_ok());
        record.state = Some(State::Memory {
            mib: 1500,
            reason: "no disk is attached".to_owned(),
        });
        record.write(&root).unwrap();
        put("/proc/cmdline", "firstlight.root=http://10.0.0.1/ x");
        assert!(check_role(&root, Some(Role::Node)).is_ok());
        let error = check_role(&root, Some(Role::Master0)).unwrap_err();
        assert!(error.to_string().contains("no disk is attached"), "{error}");
        put(
            "/proc/cmdline",
            "firstlight.root=http://10.0.0.1/ firstlight.memory-master=yes",
        );
        assert!(check_role(&root, Some(Role::Master0)).is_ok());
        record.state = Some(State::Disk {
            device: "vda1".to_owned(),
        });
        record.write(&root).unwrap();
        assert_eq!(
            Record::read(&root).unwrap().unwrap().note(),
            "the root is from http://10.0.0.1/, state is on /dev/vda1"
        );
    }
}
