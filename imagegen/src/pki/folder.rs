//! Reads a `pki/` folder: key pairs, issued certificates, and the numbers of the documents.
//!
//! The caller makes what is not there; half a pair, and a file that cannot be read, are
//! errors.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use time::Date;

use super::document_key::{DocumentKey, Generations};
use super::encryption::EncryptionKey;
use super::issue::{Authority, ServiceAccount};
use super::{AuthorityRow, SERVICE_ACCOUNT};
use crate::output::beneath;

/// Issued certificates with their keys, for the next run.
pub(super) const ISSUED_FILE: &str = "issued.json";

/// The key of Secrets in etcd.
pub const ENCRYPTION_KEY: &str = "encryption.key";

/// The key pair of the documents: `document.key` and `document.pub`.
pub(super) const DOCUMENT_KEY: &str = "document";

/// How many documents each host was given.
pub(super) const DOCUMENTS_FILE: &str = "documents.json";

/// A certificate in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// Of the specification, the CA, the certificate and the key. A change or damage of any of them
    /// leads to a new certificate.
    pub(super) digest: String,
    pub(super) certificate: String,
    pub(super) key: KeyText,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct KeyText(pub(super) String);

impl std::fmt::Debug for KeyText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyText(..)")
    }
}

pub(super) fn authority(dir: &Path, row: &AuthorityRow, today: Date) -> Result<Authority> {
    match authority_pair(dir, row.file, today)? {
        None => Authority::create(row, today),
        Some(authority) => Ok(authority),
    }
}

/// The authority in `FILE.crt` and `FILE.key`, if both are there.
pub(super) fn authority_pair(dir: &Path, file: &str, today: Date) -> Result<Option<Authority>> {
    let (crt, key) = (format!("{file}.crt"), format!("{file}.key"));
    let Some((certificate, private)) = pair(dir, &crt, &key)? else {
        return Ok(None);
    };
    Authority::load(&certificate, &private, today)
        .with_context(|| refusal(&dir.join(&crt), &dir.join(&key)))
        .map(Some)
}

pub(super) fn service_account(dir: &Path) -> Result<ServiceAccount> {
    let (key, public) = (
        format!("{SERVICE_ACCOUNT}.key"),
        format!("{SERVICE_ACCOUNT}.pub"),
    );
    match pair(dir, &key, &public)? {
        None => ServiceAccount::create(),
        Some((private, text)) => ServiceAccount::load(&private, &text)
            .with_context(|| refusal(&dir.join(&key), &dir.join(&public))),
    }
}

/// The key of the documents in `dir`, or a new one.
pub(super) fn document_key(dir: &Path) -> Result<DocumentKey> {
    let (key, public) = (format!("{DOCUMENT_KEY}.key"), format!("{DOCUMENT_KEY}.pub"));
    match pair(dir, &key, &public)? {
        None => DocumentKey::create(),
        Some((private, text)) => DocumentKey::load(&private, &text)
            .with_context(|| refusal(&dir.join(&key), &dir.join(&public))),
    }
}

/// The key of Secrets in `dir`, or a new one for a new cluster. A cluster that began without one goes
/// on so: its masters would not read what a new master encrypts.
pub(super) fn encryption_key(dir: &Path, is_new: bool) -> Result<Option<EncryptionKey>> {
    match read(dir, ENCRYPTION_KEY)? {
        Some(text) => {
            let path = dir.join(ENCRYPTION_KEY);
            let key = EncryptionKey::load(&text).with_context(|| {
                format!(
                    "reading `{}` (without this key the Secrets of the cluster are lost: restore it)",
                    path.display()
                )
            })?;
            Ok(Some(key))
        }
        None if is_new => EncryptionKey::create().map(Some),
        None => Ok(None),
    }
}

/// Whether `dir` has no authority yet.
pub(super) fn is_new(dir: &Path) -> Result<bool> {
    Ok(read(dir, "ca.crt")?.is_none())
}

pub(super) fn generations(dir: &Path) -> Result<Generations> {
    let Some(text) = read(dir, DOCUMENTS_FILE)? else {
        return Ok(Generations::default());
    };
    serde_json::from_str(&text).with_context(|| {
        let cure = "hosts refuse a document with a lower number than their own: restore the file";
        format!("reading `{}` ({cure})", dir.join(DOCUMENTS_FILE).display())
    })
}

pub(super) fn generations_file(generations: &Generations) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(generations).context("writing the numbers of the documents")
}

/// What `imagegen reset-token` needs of an existing `pki/` folder, and the file that it changes.
pub fn document_key_of(dir: &Path) -> Result<(DocumentKey, Generations)> {
    if read(dir, &format!("{DOCUMENT_KEY}.key"))?.is_none() {
        bail!(
            "`{}` has no `{DOCUMENT_KEY}.key`; write the documents first: `imagegen userdata`",
            dir.display()
        );
    }
    Ok((document_key(dir)?, generations(dir)?))
}

/// Name and bytes of the file with the numbers of the documents.
pub fn documents_file(generations: &Generations) -> Result<(&'static str, Vec<u8>)> {
    Ok((DOCUMENTS_FILE, generations_file(generations)?))
}

fn refusal(first: &Path, second: &Path) -> String {
    format!(
        "using `{}` and `{}` (imagegen never overwrites a CA: restore the right pair, or move \
         both files \
         away for a new cluster)",
        first.display(),
        second.display()
    )
}

/// Both texts of a pair, or none. One alone is an error: with a new pair, hosts would no longer
/// trust each other.
fn pair(dir: &Path, first: &str, second: &str) -> Result<Option<(String, String)>> {
    let texts = (read(dir, first)?, read(dir, second)?);
    let (first, second) = (dir.join(first), dir.join(second));
    match texts {
        (Some(a), Some(b)) => Ok(Some((a, b))),
        (None, None) => Ok(None),
        (a, _) => {
            let (found, missing) = if a.is_some() {
                (&first, &second)
            } else {
                (&second, &first)
            };
            bail!(
                "`{}` exists, but `{}` is not there; restore it, or move the first away for a new \
                 cluster",
                found.display(),
                missing.display()
            )
        }
    }
}

pub(super) fn read_issued(dir: &Path) -> Result<BTreeMap<String, BTreeMap<String, Kept>>> {
    let Some(text) = read(dir, ISSUED_FILE)? else {
        return Ok(BTreeMap::new());
    };
    serde_json::from_str(&text).with_context(|| {
        let cure = "without this file, every host gets new certificates from the same CAs";
        format!("reading `{}` ({cure})", dir.join(ISSUED_FILE).display())
    })
}

/// Reads a file of the store and restricts its mode to the owner.
pub(super) fn read(dir: &Path, name: &str) -> Result<Option<String>> {
    let Some(mut file) = beneath::open(dir, Path::new(name))? else {
        return Ok(None);
    };
    let path = dir.join(name);
    let mut text = String::new();
    file.read_to_string(&mut text)
        .with_context(|| format!("reading `{}`", path.display()))?;
    let meta = file
        .metadata()
        .with_context(|| format!("reading the mode of `{}`", path.display()))?;
    if meta.mode() & 0o077 != 0 {
        log::warn!(
            "`{}` is accessible to others; setting its mode to 0600",
            path.display()
        );
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .with_context(|| format!("setting the mode of `{}`", path.display()))?;
    }
    Ok(Some(text))
}
