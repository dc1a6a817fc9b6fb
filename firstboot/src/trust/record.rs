//! The document that this machine obeys, kept in its state.
//!
//! Later boots need no seed: they take the document from here. There are two copies with checksums;
//! a machine that can read neither takes no document at all, because any disk could then take it
//! over.

use std::fmt;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use userdata::signature::{self, Claims, Signature};

use super::passphrase::Lock;
use crate::source::Seed;
use crate::system::files::{Attributes, Root};

pub const PATH: &str = "/var/lib/firstlight/document.json";
pub const COPY: &str = "/var/lib/firstlight/document.copy.json";

/// Outlives the record: a token that was used once must not work again.
const SPENT: &str = "/var/lib/firstlight/reset.json";

/// The document and what is known of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub phase: Phase,
    /// `None` for a document without a signature.
    pub signer: Option<Signer>,
    /// Of all its files; see [`signature::digest`].
    pub digest: String,
    /// The source that had it.
    pub source: String,
    origin: String,
    user_data: Bytes,
    meta_data: Bytes,
    network_config: Option<Bytes>,
    vendor_data: Option<Bytes>,
    /// Of a document that was encrypted. The files above are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// What became of the secrets in the seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<String>,
}

// The bytes hold keys.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({:?}, {})", self.phase, self.digest)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// From before the first change until all steps are done.
    Pending,
    Applied,
}

/// Whose document it is, and for which host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    pub key: Bytes,
    pub cluster: String,
    pub host: String,
    pub generation: u64,
}

impl Signer {
    pub fn of(signature: &Signature) -> Self {
        let Claims {
            cluster,
            host,
            generation,
        } = signature.claims.clone();
        Self {
            key: Bytes(signature.key.to_vec()),
            cluster,
            host,
            generation,
        }
    }

    /// Of the key, for people.
    pub fn name(&self) -> String {
        signature::key_name(&self.key.0)
    }
}

/// The newest reset token of a key that this machine has obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Spent {
    key: Bytes,
    generation: u64,
}

/// Base64 in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

impl Record {
    pub fn new(source: &str, seed: &Seed, signer: Option<Signer>, digest: String) -> Self {
        let bytes = |bytes: &Vec<u8>| Bytes(bytes.clone());
        Self {
            phase: Phase::Pending,
            signer,
            digest,
            source: source.to_owned(),
            origin: seed.origin.clone(),
            user_data: bytes(&seed.user_data),
            meta_data: bytes(&seed.meta_data),
            network_config: seed.network_config.as_ref().map(bytes),
            vendor_data: seed.vendor_data.as_ref().map(bytes),
            lock: None,
            secrets: None,
        }
    }

    /// The kept record; `None` on a machine that has had no document yet.
    pub fn open(root: &Root) -> Result<Option<Self>> {
        let (first, second) = (read(root, PATH), read(root, COPY));
        match (first, second) {
            (Ok(None), Ok(None)) => Ok(None),
            (Ok(Some(record)), _) => Ok(Some(record)),
            (first, Ok(Some(record))) => {
                if let Err(error) = first {
                    log::warn!("{error:#}; using its copy");
                }
                Ok(Some(record))
            }
            (Err(error), _) | (_, Err(error)) => Err(error.context(
                "the record of this machine's document is damaged, and so is its copy. This \
                 machine cannot tell which document to obey and takes none; run `firstboot reset` \
                 to make it take the next one",
            )),
        }
    }

    /// Writes both copies, one after the other, so that a power cut leaves one of them whole.
    pub fn save(&self, root: &Root) -> Result<()> {
        let json = serde_json::to_vec(self).context("writing the record of the document")?;
        let mut bytes = format!("sha256:{}\n", checksum(&json)).into_bytes();
        bytes.extend_from_slice(&json);
        for path in [PATH, COPY] {
            root.write(path, &bytes, Attributes::mode(0o600))?;
        }
        Ok(())
    }

    /// Forgets the document. What is remembered of tokens stays, and with `until` no token up to
    /// that number works any more.
    pub fn forget(&self, root: &Root, until: u64) -> Result<()> {
        if let Some(signer) = &self.signer {
            let spent = Spent {
                key: signer.key.clone(),
                generation: until.max(spent(root, &signer.key)?),
            };
            let bytes = serde_json::to_vec(&spent).context("writing the spent token")?;
            root.write(SPENT, &bytes, Attributes::mode(0o600))?;
        }
        remove(root)
    }

    /// The document's files.
    pub fn seed(&self) -> Seed {
        Seed {
            origin: self.origin.clone(),
            user_data: self.user_data.0.clone(),
            meta_data: self.meta_data.0.clone(),
            network_config: self.network_config.as_ref().map(|bytes| bytes.0.clone()),
            vendor_data: self.vendor_data.as_ref().map(|bytes| bytes.0.clone()),
        }
    }

    /// Its generation, or what stands for it, for people.
    pub fn describe(&self) -> String {
        match &self.signer {
            Some(signer) => format!(
                "generation {} for `{}` of `{}`, signed by {}",
                signer.generation,
                signer.host,
                signer.cluster,
                signer.name()
            ),
            None => format!("without a signature, digest {}", &self.digest[..12]),
        }
    }
}

/// Removes both copies; the second goes first, so that a power cut leaves a whole record or none.
pub fn remove(root: &Root) -> Result<()> {
    root.remove(COPY)?;
    root.remove(PATH)?;
    root.sync("/var/lib/firstlight")
}

/// The number of the last token of this key that was used; 0 for none.
pub fn spent(root: &Root, key: &Bytes) -> Result<u64> {
    let Some(bytes) = root.read(SPENT)? else {
        return Ok(0);
    };
    let spent: Spent =
        serde_json::from_slice(&bytes).with_context(|| format!("reading `{SPENT}`"))?;
    Ok(if spent.key == *key {
        spent.generation
    } else {
        0
    })
}

fn read(root: &Root, path: &str) -> Result<Option<Record>> {
    let Some(bytes) = root.read(path)? else {
        return Ok(None);
    };
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (head, json) = bytes.split_at(line);
    let json = json.strip_prefix(b"\n").unwrap_or(json);
    if head != format!("sha256:{}", checksum(json)).as_bytes() {
        bail!("`{path}` is damaged: its checksum differs");
    }
    let record = serde_json::from_slice(json).with_context(|| format!("reading `{path}`"))?;
    Ok(Some(record))
}

fn checksum(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let seed = Seed {
            origin: "/dev/vdb".to_owned(),
            user_data: b"#cloud-config\n".to_vec(),
            meta_data: Vec::new(),
            network_config: Some(Vec::new()),
            vendor_data: None,
        };
        Record::new("cidata", &seed, None, "0".repeat(64))
    }

    #[test]
    fn one_whole_copy_is_enough_and_none_is_an_error() {
        for (broken, whole) in [(PATH, COPY), (COPY, PATH)] {
            let dir = tempfile::tempdir().unwrap();
            let root = Root::new(dir.path());
            assert_eq!(Record::open(&root).unwrap(), None);
            let record = record();
            record.save(&root).unwrap();
            assert_eq!(Record::open(&root).unwrap(), Some(record.clone()));
            let text = root.read(broken).unwrap().unwrap();
            let half = &text[..text.len() / 2];
            root.write(broken, half, Attributes::mode(0o600)).unwrap();
            assert_eq!(Record::open(&root).unwrap(), Some(record), "{broken}");
            root.remove(whole).unwrap();
            let error = format!("{:#}", Record::open(&root).unwrap_err());
            assert!(error.contains("takes none"), "{error}");
        }
    }

    #[test]
    fn seed_is_kept_byte_by_byte() {
        let record = record();
        let seed = record.seed();
        assert_eq!(seed.network_config, Some(Vec::new()));
        assert_eq!(seed.vendor_data, None);
        assert_eq!(Record::new("cidata", &seed, None, "0".repeat(64)), record);
    }
}
