//! The key that signs a cluster's documents, and the count of each host's documents.
//!
//! No machine of the cluster holds the private half: a thief of one cannot write a document
//! for another.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, ensure};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use serde::{Deserialize, Serialize};
use userdata::signature::{self, Claims, Files, Kind, RESET_MARK};

use super::issue::SecretPem;
use crate::documents::Document;

/// An Ed25519 key pair.
pub struct DocumentKey {
    pair: KeyPair,
    raw: [u8; 32],
}

impl std::fmt::Debug for DocumentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DocumentKey(..)")
    }
}

/// The documents that each host has been given, by host name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generations(BTreeMap<String, Given>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    generation: u64,
    /// Of the newest document.
    digest: String,
    /// Of the newest reset token, which takes a number of its own.
    #[serde(default, skip_serializing_if = "is_zero")]
    token: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl DocumentKey {
    pub fn create() -> Result<Self> {
        let pair =
            KeyPair::generate_for(&PKCS_ED25519).context("creating the key of the documents")?;
        Self::of(pair)
    }

    /// A pair that does not match or is not Ed25519 is an error.
    pub fn load(key: &str, public: &str) -> Result<Self> {
        let pair =
            KeyPair::from_pem(key).map_err(|_| anyhow!("the key is not a private key in PEM"))?;
        ensure!(
            pair.is_compatible(&PKCS_ED25519),
            "the key is not Ed25519, the only kind that firstboot reads"
        );
        let (_, pem) = x509_parser::pem::parse_x509_pem(public.as_bytes())
            .map_err(|_| anyhow!("the public key is not in PEM"))?;
        ensure!(
            pem.contents == pair.subject_public_key_info(),
            "the public key and the private key do not belong together"
        );
        Self::of(pair)
    }

    fn of(pair: KeyPair) -> Result<Self> {
        let raw = pair.public_key_raw().try_into();
        let raw = raw.context("reading the public key of the documents")?;
        Ok(Self { pair, raw })
    }

    pub fn private_pem(&self) -> SecretPem {
        SecretPem::new(self.pair.serialize_pem())
    }

    pub fn public_pem(&self) -> String {
        self.pair.public_key_pem()
    }

    /// Signs `document` for `host`, with a higher generation if it differs from the last one.
    pub fn sign(
        &self,
        mut document: Document,
        cluster: &str,
        host: &str,
        generations: &mut Generations,
    ) -> Result<Document> {
        let digest = signature::digest(&Files {
            user_data: document.user_data.as_bytes(),
            meta_data: document.meta_data.as_bytes(),
            network_config: Some(document.network_config.as_bytes()),
            vendor_data: None,
        });
        let claims = Claims {
            cluster: cluster.to_owned(),
            host: host.to_owned(),
            generation: generations.of_document(host, &digest),
        };
        let line = self.line(Kind::Document, &claims, &digest)?;
        document.user_data.push_str(&line);
        Ok(document)
    }

    /// The `user-data` of a token with which `host` forgets its document. `meta_data` is the seed's.
    pub fn reset_token(
        &self,
        cluster: &str,
        host: &str,
        meta_data: &str,
        generations: &mut Generations,
    ) -> Result<String> {
        let digest = signature::digest(&Files {
            user_data: RESET_MARK.as_bytes(),
            meta_data: meta_data.as_bytes(),
            network_config: None,
            vendor_data: None,
        });
        let claims = Claims {
            cluster: cluster.to_owned(),
            host: host.to_owned(),
            generation: generations.of_token(host),
        };
        let line = self.line(Kind::Reset, &claims, &digest)?;
        Ok(format!("{RESET_MARK}{line}"))
    }

    fn line(&self, kind: Kind, claims: &Claims, digest: &str) -> Result<String> {
        let statement = signature::statement(kind, claims, &self.raw, digest);
        let signed = self.pair.sign(statement.as_bytes());
        let signed = signed.with_context(|| format!("signing for `{}`", claims.host))?;
        let signed: [u8; 64] = signed
            .try_into()
            .map_err(|_| anyhow!("a signature of Ed25519 has 64 bytes"))?;
        Ok(signature::line(claims, &self.raw, &signed))
    }
}

impl Generations {
    /// The number of the host's newest document; 0 for a host without one.
    pub fn newest(&self, host: &str) -> u64 {
        self.0.get(host).map_or(0, |given| given.generation)
    }

    fn of_document(&mut self, host: &str, digest: &str) -> u64 {
        let before = self.0.get(host);
        let (generation, token) = match before {
            Some(given) if given.digest == digest => (given.generation, given.token),
            Some(given) => (given.generation.max(given.token) + 1, given.token),
            None => (1, 0),
        };
        let given = Given {
            generation,
            digest: digest.to_owned(),
            token,
        };
        self.0.insert(host.to_owned(), given);
        generation
    }

    fn of_token(&mut self, host: &str) -> u64 {
        let given = self.0.entry(host.to_owned()).or_insert_with(|| Given {
            generation: 0,
            digest: String::new(),
            token: 0,
        });
        given.token = given.generation.max(given.token) + 1;
        given.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_counts_changed_documents_and_tokens() {
        let mut all = Generations::default();
        assert_eq!(all.of_document("m0", "a"), 1);
        assert_eq!(all.of_document("m0", "a"), 1);
        assert_eq!(all.of_document("m0", "b"), 2);
        assert_eq!(all.of_token("m0"), 3);
        assert_eq!(all.of_token("m0"), 4);
        // A token changes no document.
        assert_eq!(all.of_document("m0", "b"), 2);
        assert_eq!(all.of_document("m0", "c"), 5);
        assert_eq!(all.of_document("m1", "a"), 1);
    }

    #[test]
    fn key_is_read_back_and_must_be_a_pair_of_its_kind() -> Result<()> {
        let (key, other) = (DocumentKey::create()?, DocumentKey::create()?);
        let pem = key.private_pem();
        let again = DocumentKey::load(pem.expose(), &key.public_pem())?;
        assert_eq!(again.raw, key.raw);
        assert_eq!(again.private_pem(), pem);
        let refusal = |key: &str, public: &str| match DocumentKey::load(key, public) {
            Ok(_) => "none".to_owned(),
            Err(error) => error.to_string(),
        };
        let mixed = refusal(pem.expose(), &other.public_pem());
        assert!(mixed.contains("do not belong together"), "{mixed}");
        let pair = KeyPair::generate()?;
        let kind = refusal(&pair.serialize_pem(), &pair.public_key_pem());
        assert!(kind.contains("not Ed25519"), "{kind}");
        Ok(())
    }
}
