//! What this host's document has set already, so that a later boot does not set it again.
//!
//! What a person, a command or a renewal changes after the first boot stays. A changed document, or
//! the same one for another instance, applies again.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::report::Reporter;
use crate::system::files::{Attributes, Root};

const PATH: &str = "/var/lib/firstlight/applied.json";

/// The record below one root, for one instance.
#[derive(Debug)]
pub struct Applied {
    root: Root,
    instance: String,
    entries: BTreeMap<String, Entry>,
}

/// One thing that the document sets: a file, a user, a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    instance: String,
    /// Of the parts that are applied, in order.
    parts: Vec<String>,
    /// Set while a file is being written: a power cut leaves the file with or without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pending: Option<Pending>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    parts: Vec<String>,
    /// Of the whole file with these parts.
    result: String,
}

impl Applied {
    /// Reads the record of this instance. An unreadable one is as good as none.
    pub fn open(root: &Root, instance: &str) -> Result<Self> {
        let bytes = root.read(PATH)?;
        let entries = bytes.map(|bytes| serde_json::from_slice(&bytes));
        let entries = entries.transpose().unwrap_or_else(|error| {
            log::warn!("reading `{PATH}`: {error}; applying the whole document again");
            None
        });
        Ok(Self {
            root: root.clone(),
            instance: instance.to_owned(),
            entries: entries.unwrap_or_default(),
        })
    }

    /// The digests of what is applied for `key`; empty for another instance.
    pub fn parts(&self, key: &str) -> &[String] {
        match self.entries.get(key) {
            Some(entry) if entry.instance == self.instance => &entry.parts,
            _ => &[],
        }
    }

    /// Whether exactly `parts` are applied for `key`.
    pub fn has(&self, key: &str, parts: &[String]) -> bool {
        !parts.is_empty() && self.parts(key) == parts
    }

    /// The keys of any instance.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Records that `parts` are applied for `key`. Needs [`Self::save`].
    pub fn set(&mut self, key: &str, parts: Vec<String>) {
        let entry = Entry {
            instance: self.instance.clone(),
            parts,
            pending: None,
        };
        self.entries.insert(key.to_owned(), entry);
    }

    /// Records that the file `path` is about to hold `bytes`, which bring it to `parts`.
    pub fn begin(&mut self, path: &str, parts: Vec<String>, bytes: &[u8]) {
        let earlier = self.parts(path).to_vec();
        let entry = Entry {
            instance: self.instance.clone(),
            parts: earlier,
            pending: Some(Pending {
                parts,
                result: digest([bytes]),
            }),
        };
        self.entries.insert(path.to_owned(), entry);
    }

    /// Decides after a power cut whether a file that was being written is written.
    pub fn settle(&mut self, path: &str) -> Result<()> {
        let Some(entry) = self.entries.get_mut(path) else {
            return Ok(());
        };
        if let Some(pending) = entry.pending.take() {
            let bytes = self.root.read(path)?;
            if bytes.is_some_and(|bytes| digest([bytes.as_slice()]) == pending.result) {
                entry.parts = pending.parts;
            }
        }
        Ok(())
    }

    pub fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// [`Self::save`] after the change itself, which a full disk does not undo.
    pub fn save_or_tell(&self, report: &mut Reporter) {
        if let Err(error) = self.save() {
            report.attention(&format!(
                "{error:#}; the next boot sets again what this document sets"
            ));
        }
    }

    /// Writes the record if it changed.
    pub fn save(&self) -> Result<()> {
        let bytes = serde_json::to_vec(&self.entries).context("writing the record")?;
        // Digests of secrets are for root only.
        self.root.write(PATH, &bytes, Attributes::mode(0o600))?;
        Ok(())
    }
}

/// SHA-256 of these parts, each with its length, in hexadecimal.
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let bytes = hasher.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_cut_during_a_write_is_settled_by_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let parts = vec!["a".to_owned()];
        let mut applied = Applied::open(&root, "i").unwrap();
        applied.begin("/etc/f", parts.clone(), b"text");
        applied.save().unwrap();
        let mut before = Applied::open(&root, "i").unwrap();
        before.settle("/etc/f").unwrap();
        assert!(!before.has("/etc/f", &parts));
        root.write("/etc/f", b"text", Attributes::mode(0o644))
            .unwrap();
        let mut after = Applied::open(&root, "i").unwrap();
        after.settle("/etc/f").unwrap();
        assert!(after.has("/etc/f", &parts));
    }

    #[test]
    fn another_instance_has_nothing_applied() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mut applied = Applied::open(&root, "one").unwrap();
        applied.set("user:a", vec!["x".to_owned()]);
        applied.save().unwrap();
        let other = Applied::open(&root, "two").unwrap();
        assert_eq!(other.parts("user:a"), [""; 0]);
        assert_eq!(other.keys().collect::<Vec<_>>(), ["user:a"]);
    }

    #[test]
    fn unreadable_record_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.write(PATH, b"{", Attributes::mode(0o600)).unwrap();
        assert_eq!(Applied::open(&root, "i").unwrap().keys().count(), 0);
    }
}
