//! Least secret: checks that the final bytes of a host's document have no secret of another host.
//!
//! Independent of how documents are written. It searches each text, and recursively every base64
//! and gzip in it. Each private key and certificate must be on the host's list of allowed ones, so
//! that unforeseen secrets are refused too.

mod clients;
mod encoded;
mod token;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use anyhow::{Context as _, Result, bail};
use rcgen::{KeyPair, PublicKeyData as _};
use userdata::node_config::Role;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use self::clients::ClientMaterial;
use self::encoded::{base64_runs, decode};
use self::token::is_bootstrap_token;
use crate::documents::Document;
use crate::pki::issue::SecretPem;
use crate::pki::store::Pki;
use crate::pki::{AUTHORITIES, issue};
use crate::plan::{ClusterPlan, HostPlan};
use crate::state_keys::{RecoveryKeys, recovery_keys};

/// The kind of the file with the key of Secrets.
const ENCRYPTION: &str = "EncryptionConfiguration";

/// The limit of nested encodings, deeper than in any document of imagegen.
const MAX_DEPTH: u32 = 6;

/// The limit of one decompressed gzip.
const MAX_UNPACKED: u64 = 16 << 20;

/// The owners of all keys and certificates of one cluster.
#[derive(Debug)]
pub struct SecretIndex<'a> {
    /// Owner by public key (SubjectPublicKeyInfo).
    owners: BTreeMap<Vec<u8>, String>,
    authorities: Vec<Material>,
    clients: ClientMaterial,
    service_account: Vec<u8>,
    hosts: BTreeMap<String, Vec<Material>>,
    /// The key of Secrets, and the line of a master's document that has it.
    encryption: Option<(SecretPem, SecretPem)>,
    recovery: Option<&'a RecoveryKeys>,
}

/// DER of a certificate and of its key.
#[derive(Clone)]
struct Material {
    name: String,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Material({})", self.name)
    }
}

impl<'a> SecretIndex<'a> {
    /// Indexes the whole PKI.
    pub fn new(plan: &ClusterPlan, pki: &Pki) -> Result<Self> {
        let mut authorities = Vec::new();
        for row in &AUTHORITIES {
            let authority = pki.authorities.get(row.issuer);
            let name = format!("the CA `{}`", row.common_name);
            authorities.push(Material::new(
                name,
                &authority.certificate,
                authority.key.expose(),
            )?);
        }
        let clients = ClientMaterial::new(pki)?;
        let service_account = key_der(pki.authorities.service_account.key.expose())?;
        let mut hosts = BTreeMap::new();
        for host in &plan.hosts {
            let own = pki.of_host(host).map(|(name, issued)| {
                let name = format!("`{name}` of `{}`", host.name);
                Material::new(name, &issued.certificate, issued.key.expose())
            });
            hosts.insert(host.name.clone(), own.collect::<Result<_>>()?);
        }
        let operator = Material::new(
            "the operator".to_owned(),
            &pki.operator.certificate,
            pki.operator.key.expose(),
        )?;
        let mut owners = BTreeMap::new();
        for material in authorities
            .iter()
            .chain(&clients.trusted)
            .chain(&clients.signer)
            .chain(hosts.values().flatten())
            .chain([&operator])
        {
            if let Ok((_, certificate)) = X509Certificate::from_der(&material.certificate) {
                owners.insert(certificate.public_key().raw.to_vec(), material.name.clone());
            }
        }
        if let Ok(pair) = KeyPair::try_from(service_account.as_slice()) {
            owners.insert(
                pair.subject_public_key_info(),
                "the service accounts".to_owned(),
            );
        }
        if let Ok(pair) = KeyPair::from_pem(pki.document_key.private_pem().expose()) {
            let owner = "the documents' signer, which no host may have";
            owners.insert(pair.subject_public_key_info(), owner.to_owned());
        }
        let encryption = pki.encryption_key.as_ref().map(|key| {
            let line = key.configuration().trim_end().to_owned();
            let secret = SecretPem::new(key.expose().to_owned());
            (secret, SecretPem::new(line))
        });
        Ok(Self {
            encryption,
            owners,
            authorities,
            clients,
            service_account,
            hosts,
            recovery: None,
        })
    }

    /// With the recovery keys that documents have, each its host's.
    pub fn with_recovery(self, recovery: Option<&'a RecoveryKeys>) -> Self {
        Self { recovery, ..self }
    }

    /// Refuses a document with a secret or certificate that its host may not have.
    pub fn check(&self, host: &HostPlan, document: &Document) -> Result<()> {
        let own = self
            .hosts
            .get(&host.name)
            .with_context(|| format!("no certificates for `{}`", host.name))?;
        let mut keys: BTreeSet<&[u8]> =
            own.iter().map(|material| material.key.as_slice()).collect();
        let mut certificates: BTreeSet<&[u8]> = own
            .iter()
            .map(|material| material.certificate.as_slice())
            .collect();
        for (row, authority) in AUTHORITIES.iter().zip(&self.authorities) {
            if row.holders.include(host.role) {
                certificates.insert(&authority.certificate);
            }
            if host.role != Role::Node {
                keys.insert(&authority.key);
            }
        }
        let trusted = self.clients.trusted.iter();
        certificates.extend(trusted.map(|one| one.certificate.as_slice()));
        if host.role != Role::Node {
            keys.insert(&self.service_account);
            if let Some(signer) = &self.clients.signer {
                certificates.insert(&signer.certificate);
                keys.insert(&signer.key);
            }
        }
        let search = Search {
            index: self,
            keys,
            certificates,
            recovery: self.recovery.map(|keys| keys.of(&host.name)).transpose()?,
        };
        // A master has the key of Secrets once, in its own file.
        let mut user_data = Cow::Borrowed(document.user_data.as_str());
        if let Some((_, line)) = &self.encryption
            && host.role != Role::Node
        {
            user_data = Cow::Owned(user_data.replacen(line.expose(), "", 1));
        }
        let texts = document.files().map(|(name, bytes)| match name {
            "user-data" => (name, user_data.as_bytes()),
            _ => (name, bytes),
        });
        for (name, bytes) in texts {
            search.bytes(bytes, 0).with_context(|| {
                format!(
                    "checking `{name}` of `{}` (nothing was written; remove it from the topology, \
                     or report a bug of imagegen if the topology does not have it)",
                    host.name
                )
            })?;
        }
        Ok(())
    }
}

impl Material {
    fn new(name: String, certificate: &str, key: &str) -> Result<Self> {
        Ok(Self {
            certificate: issue::certificate_der(certificate)?,
            key: key_der(key)?,
            name,
        })
    }
}

fn key_der(pem: &str) -> Result<Vec<u8>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .map_err(|_| anyhow::anyhow!("a key is not PEM"))?;
    Ok(pem.contents)
}

struct Search<'a> {
    index: &'a SecretIndex<'a>,
    keys: BTreeSet<&'a [u8]>,
    certificates: BTreeSet<&'a [u8]>,
    /// The host's own recovery key.
    recovery: Option<&'a SecretPem>,
}

impl Search<'_> {
    fn bytes(&self, bytes: &[u8], depth: u32) -> Result<()> {
        if depth > MAX_DEPTH {
            bail!("more than {MAX_DEPTH} layers of encoding: its contents cannot be checked");
        }
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut inside = Vec::new();
            flate2::read::MultiGzDecoder::new(bytes)
                .take(MAX_UNPACKED + 1)
                .read_to_end(&mut inside)
                .context("unpacking a gzip in it")?;
            if inside.len() as u64 > MAX_UNPACKED {
                bail!(
                    "a gzip of more than {} MiB: its contents cannot be checked",
                    MAX_UNPACKED >> 20
                );
            }
            return self.bytes(&inside, depth + 1);
        }
        if bytes.first() == Some(&0x30) && self.der(bytes)? {
            return Ok(());
        }
        if bytes
            .windows(15)
            .any(|window| window == b"openssh-key-v1\0")
        {
            bail!("an OpenSSH private key");
        }
        if bytes.starts_with(b"openssh-key-v1\0") {
            bail!("an OpenSSH private key");
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(text, depth),
            Err(_) => Ok(()),
        }
    }

    /// Whether the bytes are a key or a certificate; one that is not allowed is an error.
    fn der(&self, der: &[u8]) -> Result<bool> {
        if self.keys.contains(der) || self.certificates.contains(der) {
            return Ok(true);
        }
        if let Ok(pair) = KeyPair::try_from(der) {
            let owner = self.index.owners.get(&pair.subject_public_key_info());
            bail!(
                "a private key that does not belong here, of {}",
                owner.map_or("an unknown owner", String::as_str)
            );
        }
        if is_private_key(der) {
            bail!("a private key that does not belong here, of an unknown owner");
        }
        if let Ok((_, certificate)) = X509Certificate::from_der(der) {
            let owner = self.index.owners.get(certificate.public_key().raw);
            bail!(
                "a certificate that does not belong here, of {}",
                owner.map_or("an unknown owner", String::as_str)
            );
        }
        Ok(false)
    }

    fn text(&self, text: &str, depth: u32) -> Result<()> {
        if text.contains("ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
            bail!("an encrypted private key");
        }
        words(text)?;
        shapes(text)?;
        // In quotes a line break is `\n`, and JSON may write `/` as `\/`.
        let plain = match text.contains('\\') {
            true => Cow::Owned(
                text.replace("\\r", "")
                    .replace("\\n", "\n")
                    .replace("\\/", "/"),
            ),
            false => Cow::Borrowed(text),
        };
        if let Some((key, _)) = &self.index.encryption
            && plain.contains(key.expose())
        {
            bail!("the key of Secrets, where it does not belong");
        }
        if recovery_keys(&plain).any(|key| self.recovery.is_none_or(|own| own.expose() != key)) {
            bail!("a recovery key that does not belong here");
        }
        for run in base64_runs(&plain) {
            for decoded in decode(&run) {
                self.bytes(&decoded, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Detects PKCS#8 and older formats by their first fields: a sequence with a small version number
/// and an algorithm (PKCS#8), a modulus (PKCS#1, DSA) or the key (SEC1).
fn is_private_key(der: &[u8]) -> bool {
    let header = match der.get(1) {
        Some(0x81) => 3,
        Some(0x82) => 4,
        Some(short) if *short < 0x80 => 2,
        _ => return false,
    };
    let Some(body) = der.get(header..) else {
        return false;
    };
    let whole = match header {
        2 => usize::from(der[1]) == body.len(),
        3 => usize::from(der[2]) == body.len(),
        _ => usize::from(u16::from_be_bytes([der[2], der[3]])) == body.len(),
    };
    whole && matches!(body, [0x02, 0x01, 0 | 1, 0x30 | 0x02 | 0x04, ..])
}

/// Refuses secrets that are not keys, by the name of their field.
fn words(text: &str) -> Result<()> {
    const WORDS: [(&str, &str); 12] = [
        ("token", "a token"),
        ("token-secret", "a token"),
        ("tokenFile", "a token"),
        ("password", "a password"),
        ("passwd", "a password"),
        ("plain_text_passwd", "a password"),
        ("hashed_passwd", "a password"),
        ("chpasswd", "passwords"),
        ("certificateKey", "kubeadm's certificate key"),
        (".dockerconfigjson", "registry credentials"),
        ("identitytoken", "registry credentials"),
        ("auths", "registry credentials"),
    ];
    let bytes = text.as_bytes();
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || b"_-.".contains(b);
    for (at, _) in bytes.iter().enumerate().filter(|(_, b)| **b == b':') {
        // A key of YAML or JSON, quoted or not: the word before the colon.
        let mut end = at;
        while end > 0 && matches!(bytes[end - 1], b'"' | b'\'' | b' ' | b'\\') {
            end -= 1;
        }
        let length = bytes[..end]
            .iter()
            .rev()
            .take(24)
            .take_while(|b| is_word(b))
            .count();
        let word = &bytes[end - length..end];
        if let Some((word, what)) = WORDS.iter().find(|(known, _)| known.as_bytes() == word) {
            bail!("{what} (`{word}`)");
        }
    }
    if text.contains(ENCRYPTION) {
        bail!("a key for encryption at rest (`EncryptionConfiguration`)");
    }
    Ok(())
}

/// Refuses tokens by their form, in any context: an option, a header, a whole file.
fn shapes(text: &str) -> Result<()> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    for word in text.split(|c| !is_part(c)) {
        let parts: Vec<&str> = word.split('.').collect();
        match parts[..] {
            [id, secret] if is_bootstrap_token(id, secret) => bail!("a bootstrap token"),
            // A JSON Web Token: two JSON objects in base64, and a signature.
            [head, claims, _] if head.starts_with("eyJ") && claims.starts_with("eyJ") => {
                bail!("a bearer token (a JSON Web Token)");
            }
            _ => {}
        }
    }
    Ok(())
}
