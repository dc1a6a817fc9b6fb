//! The keys of encrypted state partitions, which imagegen keeps in `pki/state/`: the pair that signs
//! the policy of the kernel images, and a recovery key for each host.
//!
//! No machine has the private half of the pair. With it, a later image opens the state that an
//! earlier one made. A recovery key opens the state of its host without its TPM.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rcgen::{KeyPair, PKCS_RSA_SHA256, PublicKeyData as _, RsaKeySize};

use crate::output::beneath;
use crate::pki::issue::SecretPem;
use crate::plan::HostPlan;

/// The folder, in `pki/`.
pub(crate) const FOLDER: &str = "state";
const KEY: &str = "policy.key";
const PUBLIC: &str = "policy.pub";
const RECOVERY: &str = "recovery";

/// The digits of systemd's recovery keys: they are on the same place of almost every keyboard.
const DIGITS: &[u8; 16] = b"cbdefghijklnrtuv";
const KEY_BYTES: usize = 32;
/// Digits between two dashes.
const GROUP: usize = 8;

/// The pair that signs the policy.
pub struct PolicyKey {
    pair: KeyPair,
}

impl std::fmt::Debug for PolicyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PolicyKey(..)")
    }
}

impl PolicyKey {
    /// The pair in `pki`, or a new one. Half a pair is an error, and so is a missing pair that
    /// imagegen has written before (`is_known`): with another one no machine would open its state.
    pub fn prepare(pki: &Path, is_known: bool) -> Result<Self> {
        let folder = pki.join(FOLDER);
        let path = |name: &str| folder.join(name).display().to_string();
        match (read(pki, KEY)?, read(pki, PUBLIC)?) {
            (Some(key), Some(public)) => Self::load(&key, &public).with_context(|| {
                format!("using `{}` and `{}`; restore both", path(KEY), path(PUBLIC))
            }),
            (None, None) if !is_known => Self::create(),
            (key, _) => bail!(
                "`{}` is gone; without it no later image opens the state of the hosts by their \
                 TPMs: restore it",
                path(if key.is_some() { PUBLIC } else { KEY })
            ),
        }
    }

    /// RSA: systemd verifies no other signature of a policy.
    pub fn create() -> Result<Self> {
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)
            .context("creating the key of the state's policy")?;
        Ok(Self { pair })
    }

    fn load(key: &str, public: &str) -> Result<Self> {
        let pair =
            KeyPair::from_pem(key).map_err(|_| anyhow!("the key is not a private key in PEM"))?;
        ensure!(
            pair.is_compatible(&PKCS_RSA_SHA256),
            "the key is not RSA, the only kind that systemd verifies"
        );
        let (_, pem) = x509_parser::pem::parse_x509_pem(public.as_bytes())
            .map_err(|_| anyhow!("the public key is not in PEM"))?;
        ensure!(
            pem.contents == pair.subject_public_key_info(),
            "the public key and the private key do not belong together"
        );
        Ok(Self { pair })
    }

    pub fn private_pem(&self) -> SecretPem {
        SecretPem::new(self.pair.serialize_pem())
    }

    pub fn public_pem(&self) -> String {
        self.pair.public_key_pem()
    }

    /// Path in `pki/` and contents of both files.
    pub fn files(&self) -> [(PathBuf, Vec<u8>); 2] {
        let private = self.private_pem().expose().as_bytes().to_vec();
        [
            (Path::new(FOLDER).join(KEY), private),
            (
                Path::new(FOLDER).join(PUBLIC),
                self.public_pem().into_bytes(),
            ),
        ]
    }

    /// The path of the private half in the output folder.
    pub fn path(pki: &str) -> String {
        format!("{pki}/{FOLDER}/{KEY}")
    }
}

/// A recovery key for each host, by name.
#[derive(Debug)]
pub struct RecoveryKeys(BTreeMap<String, SecretPem>);

impl RecoveryKeys {
    /// The keys in `pki`, and new ones for hosts without. `is_known` says whether imagegen has
    /// written a host's key before; then its loss is an error.
    pub fn prepare(
        pki: &Path,
        hosts: &[HostPlan],
        is_known: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut keys = BTreeMap::new();
        for host in hosts {
            let name = recovery_file(&host.name);
            let path = pki.join(FOLDER).join(&name).display().to_string();
            let key = match read(pki, &name)? {
                Some(text) => {
                    let text = text.trim();
                    ensure!(
                        is_recovery_key(text),
                        "`{path}` has no recovery key; restore the file"
                    );
                    text.to_owned()
                }
                None if is_known(&Self::path("pki", &host.name)) => bail!(
                    "`{path}` is gone; it opens the state of `{}` without its TPM: restore it, or \
                     copy `/etc/firstlight/recovery.key` of the host to it",
                    host.name
                ),
                None => random_letters(KEY_BYTES)?,
            };
            keys.insert(host.name.clone(), SecretPem::new(key));
        }
        Ok(Self(keys))
    }

    /// The key of one host.
    pub fn of(&self, host: &str) -> Result<&SecretPem> {
        let key = self.0.get(host);
        key.with_context(|| format!("`{host}` has no recovery key"))
    }

    /// Path in `pki/` and contents of each file.
    pub fn files(&self) -> impl Iterator<Item = (PathBuf, Vec<u8>)> {
        self.0.iter().map(|(host, key)| {
            let path = Path::new(FOLDER).join(recovery_file(host));
            (path, format!("{}\n", key.expose()).into_bytes())
        })
    }

    /// The path of a host's key in the output folder.
    pub fn path(pki: &str, host: &str) -> String {
        format!("{pki}/{FOLDER}/{}", recovery_file(host))
    }
}

fn recovery_file(host: &str) -> String {
    format!("{RECOVERY}/{host}.key")
}

fn read(pki: &Path, name: &str) -> Result<Option<String>> {
    let path = Path::new(FOLDER).join(name);
    let Some(bytes) = beneath::read(pki, &path)? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| anyhow!("`{}` is not UTF-8 text", pki.join(&path).display()))?;
    Ok(Some(text))
}

/// So many random bytes in letters, in groups of 8.
pub(crate) fn random_letters(count: usize) -> Result<String> {
    let mut bytes = vec![0; count];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("reading `/dev/urandom` for a secret")?;
    let digits = bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]));
    let mut key = String::new();
    for (number, digit) in digits.enumerate() {
        if number > 0 && number % GROUP == 0 {
            key.push('-');
        }
        key.push(digit);
    }
    Ok(key)
}

fn is_recovery_key(text: &str) -> bool {
    is_letters(text, KEY_BYTES)
}

/// Whether [`random_letters`] could have made `text` of so many bytes.
pub(crate) fn is_letters(text: &str, count: usize) -> bool {
    text.len() == count * 2 + count * 2 / GROUP - 1
        && text
            .split('-')
            .all(|group| group.len() == GROUP && group.bytes().all(|b| DIGITS.contains(&b)))
}

/// Every recovery key in `text`, of any folder.
pub(crate) fn recovery_keys(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c == '-' || c.is_ascii_alphanumeric();
    text.split(move |c| !is_part(c))
        .filter(|word| is_recovery_key(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_key_has_256_bits_in_groups() -> Result<()> {
        let key = random_letters(KEY_BYTES)?;
        assert_eq!(key.len(), 71, "{key}");
        assert!(is_recovery_key(&key), "{key}");
        assert_ne!(key, random_letters(KEY_BYTES)?);
        let text = format!("path: x\ncontent: \"{key}\\n\" a-b {}", &key[1..]);
        assert_eq!(recovery_keys(&text).collect::<Vec<_>>(), [key.as_str()]);
        Ok(())
    }

    #[test]
    fn policy_key_is_kept_and_its_loss_is_an_error() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let key = PolicyKey::prepare(dir.path(), false)?;
        std::fs::create_dir(dir.path().join(FOLDER))?;
        for (path, bytes) in key.files() {
            std::fs::write(dir.path().join(path), bytes)?;
        }
        let again = PolicyKey::prepare(dir.path(), true)?;
        assert_eq!(again.public_pem(), key.public_pem());
        std::fs::remove_file(dir.path().join(FOLDER).join(KEY))?;
        for is_known in [true, false] {
            let error = PolicyKey::prepare(dir.path(), is_known).expect_err("half a pair");
            assert!(error.to_string().contains("policy.key` is gone"), "{error}");
        }
        let other = PolicyKey::create()?;
        std::fs::write(
            dir.path().join(FOLDER).join(KEY),
            other.private_pem().expose(),
        )?;
        let error = PolicyKey::prepare(dir.path(), true).expect_err("a mixed pair");
        let error = format!("{error:#}");
        assert!(error.contains("do not belong together"), "{error}");
        Ok(())
    }
}
