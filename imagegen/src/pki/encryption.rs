//! The key with which the apiservers of a cluster encrypt Secrets in etcd.
//!
//! A snapshot of etcd is useless without it, so that `pki/` keeps it. Only masters have it.

use std::fs::File;
use std::io::Read as _;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::issue::SecretPem;

/// Of secretbox, XSalsa20-Poly1305.
const KEY_BYTES: usize = 32;

/// A key in base64, as `EncryptionConfiguration` has it.
#[derive(Debug)]
pub struct EncryptionKey(SecretPem);

impl EncryptionKey {
    pub fn create() -> Result<Self> {
        let mut bytes = [0; KEY_BYTES];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut bytes))
            .context("reading `/dev/urandom` for the key of Secrets")?;
        Ok(Self(SecretPem::new(STANDARD.encode(bytes))))
    }

    /// The text of the file of an earlier run.
    pub fn load(text: &str) -> Result<Self> {
        let text = text.trim();
        let bytes = STANDARD.decode(text).ok();
        ensure!(
            bytes.is_some_and(|bytes| bytes.len() == KEY_BYTES),
            "it is not {KEY_BYTES} bytes in base64"
        );
        Ok(Self(SecretPem::new(text.to_owned())))
    }

    /// The text of the file.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// The apiserver's file, in one line of JSON. The first provider writes, all read: what is
    /// plain already stays readable.
    pub fn configuration(&self) -> String {
        let secret = self.expose();
        let key = json!({ "name": "firstlight", "secret": secret });
        let configuration = json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [{
                "resources": ["secrets"],
                "providers": [{ "secretbox": { "keys": [key] } }, { "identity": {} }],
            }],
        });
        format!("{configuration}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_read_back_and_must_be_whole() -> Result<()> {
        let key = EncryptionKey::create()?;
        assert_ne!(key.expose(), EncryptionKey::create()?.expose());
        let again = EncryptionKey::load(&format!("{}\n", key.expose()))?;
        assert_eq!(again.configuration(), key.configuration());
        for damaged in ["", "AAAA", "!", &key.expose()[1..]] {
            assert!(EncryptionKey::load(damaged).is_err(), "{damaged}");
        }
        Ok(())
    }
}
