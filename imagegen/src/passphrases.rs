//! The passphrases of encrypted documents, one for each host, which imagegen keeps in
//! `pki/passphrases/`. No document has one: a person or the hypervisor gives it to the machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::documents::Document;
use crate::output::beneath;
use crate::pki::issue::SecretPem;
use crate::plan::HostPlan;
use crate::state_keys::{is_letters, random_letters};

/// The folder, in `pki/`.
pub const FOLDER: &str = "passphrases";

/// 128 bits: a person types it once.
const BYTES: usize = 16;

/// A passphrase for each host, by name.
#[derive(Debug)]
pub struct Passphrases(BTreeMap<String, SecretPem>);

impl Passphrases {
    /// The passphrases in `pki`, and new ones for hosts without. `is_known` says whether imagegen
    /// has written a host's passphrase before; then its loss is an error.
    pub fn prepare(
        pki: &Path,
        hosts: &[HostPlan],
        is_known: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut all = BTreeMap::new();
        for host in hosts {
            let name = file(&host.name);
            let path = pki.join(&name).display().to_string();
            let passphrase = match beneath::read(pki, &name)? {
                Some(bytes) => {
                    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
                    ensure!(
                        is_letters(&text, BYTES),
                        "`{path}` has no passphrase; restore the file"
                    );
                    text
                }
                None if is_known(&Self::path("pki", &host.name)) => bail!(
                    "`{path}` is gone; `{}` opens its documents with it: restore it, or write the \
                     passphrase to it that `/var/lib/firstlight/document.json` of the host has",
                    host.name
                ),
                None => random_letters(BYTES)?,
            };
            all.insert(host.name.clone(), SecretPem::new(passphrase));
        }
        Ok(Self(all))
    }

    /// The signed `document` of `host`, whose `user-data` only its passphrase opens. `meta-data`
    /// stays readable: by it a machine finds its document.
    pub fn encrypt(&self, document: Document, host: &str) -> Result<Document> {
        let passphrase = self.0.get(host);
        let passphrase = passphrase.with_context(|| format!("`{host}` has no passphrase"))?;
        Ok(Document {
            user_data: age_file::seal(document.user_data.as_bytes(), passphrase.expose()),
            ..document
        })
    }

    /// Path in `pki/` and contents of each file.
    pub fn files(&self) -> impl Iterator<Item = (PathBuf, Vec<u8>)> {
        self.0.iter().map(|(host, passphrase)| {
            let text = format!("{}\n", passphrase.expose());
            (file(host), text.into_bytes())
        })
    }

    /// The path of a host's passphrase in the output folder.
    pub fn path(pki: &str, host: &str) -> String {
        format!("{pki}/{FOLDER}/{host}.key")
    }
}

fn file(host: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{host}.key"))
}
