//! Which document this machine obeys.
//!
//! The first one is recorded ([`record`]) and kept. A later one counts only with a signature for
//! this host by the key of the first, and with a higher generation; every other one is refused,
//! and the machine boots as before. A machine whose first document had no signature takes no other.

pub mod passphrase;
pub mod record;
pub mod scrub;

use anyhow::{Context, Result, anyhow, bail, ensure};
use ring::signature::{ED25519, UnparsedPublicKey};
use userdata::signature::{self, Files, Kind, Signature};

use crate::host::Host;
use crate::source::{Attempt, Seed, SourceResult, WrongMachine};
use crate::system::files::Root;
use record::{Record, Signer};

/// What the sources have for a machine that has a document.
#[derive(Debug, Default)]
pub struct Found {
    /// Signed for this host and newer than its document, the newest first.
    pub newer: Vec<Newer>,
    /// The document that the machine has; its secrets may be in the seed still.
    pub same: Vec<Seed>,
    /// The generation of a token that makes this machine forget its document.
    pub reset: Option<u64>,
    /// Source and reason of each refused document.
    pub refused: Vec<(String, String)>,
}

/// A newer document of this machine.
#[derive(Debug)]
pub struct Newer {
    pub source: String,
    pub record: Record,
    /// The seed that has it, as it was delivered.
    pub seed: Seed,
}

enum Verdict {
    Same,
    Newer(Box<Record>),
    Reset(u64),
}

/// The record of the first document of a machine. One with a wrong signature is an error.
pub fn first(source: &str, seed: &Seed) -> Result<Record> {
    let (signer, digest) = match read(seed).map_err(|why| unusable(seed, &why))? {
        Err(digest) => (None, digest),
        Ok(signature) => {
            verify(&signature).map_err(|why| unusable(seed, &why))?;
            (Some(Signer::of(&signature)), signature.digest)
        }
    };
    Ok(Record::new(source, seed, signer, digest))
}

/// Compares what the sources have with the document of this machine.
pub fn compare(root: &Root, kept: &Record, attempts: Vec<Attempt>) -> Found {
    let mut found = Found::default();
    for Attempt { source, result, .. } in attempts {
        let seed = match result {
            // Its owner is another machine.
            Err(error) if error.is::<WrongMachine>() => continue,
            Err(error) => {
                found
                    .refused
                    .push((source.to_owned(), format!("{error:#}")));
                continue;
            }
            Ok(SourceResult::NotFound(_)) => continue,
            Ok(SourceResult::Found(seed)) => seed,
        };
        if scrub::is_scrubbed(&seed) {
            found.same.push(seed);
            continue;
        }
        let opened = match passphrase::open_later(root, kept, &seed) {
            Ok(opened) => opened,
            Err(error) => {
                let reason = format!("{error:#}");
                found.refused.push((source.to_owned(), reason));
                continue;
            }
        };
        match judge(root, kept, source, &opened.seed) {
            Ok(Verdict::Same) => found.same.push(seed),
            Ok(Verdict::Newer(mut record)) => {
                record.lock = opened.lock.or_else(|| kept.lock.clone());
                found.newer.push(Newer {
                    source: source.to_owned(),
                    record: *record,
                    seed,
                });
            }
            Ok(Verdict::Reset(generation)) => {
                found.reset = Some(found.reset.unwrap_or(0).max(generation));
            }
            Err(error) => {
                let reason = format!("{}: {error:#}", seed.origin);
                found.refused.push((source.to_owned(), reason));
            }
        }
    }
    let generation = |record: &Record| record.signer.as_ref().map(|signer| signer.generation);
    found
        .newer
        .sort_by_key(|newer| std::cmp::Reverse(generation(&newer.record)));
    found
}

/// An error says why this document is refused.
fn judge(root: &Root, kept: &Record, source: &'static str, seed: &Seed) -> Result<Verdict> {
    let cure = "`firstboot reset` makes this machine take another document";
    let signature = match read(seed).map_err(|why| anyhow!("{why}"))? {
        Err(digest) if digest == kept.digest && kept.signer.is_none() => return Ok(Verdict::Same),
        Err(_) => bail!(
            "this document has no signature, and this machine has its document already; {cure}"
        ),
        Ok(signature) => signature,
    };
    let Some(signer) = &kept.signer else {
        bail!(
            "this machine's first document had no signature, so that it knows no key to check \
             others with; {cure}"
        );
    };
    let claims = &signature.claims;
    ensure!(
        signature.key.as_slice() == signer.key.0.as_slice(),
        "it is signed by {}, but this machine obeys {}; {cure}",
        signature::key_name(&signature.key),
        signer.name()
    );
    ensure!(
        claims.host == signer.host && claims.cluster == signer.cluster,
        "it is for `{}` of the cluster `{}`, but this machine is `{}` of `{}`",
        claims.host,
        claims.cluster,
        signer.host,
        signer.cluster
    );
    verify(&signature).map_err(|why| anyhow!("{why}"))?;
    if signature.kind == Kind::Reset {
        let last = signer.generation.max(record::spent(root, &signer.key)?);
        ensure!(
            claims.generation > last,
            "this reset token has the number {}, and this machine takes one above {last}; make a \
             new one: `imagegen reset-token`",
            claims.generation
        );
        return Ok(Verdict::Reset(claims.generation));
    }
    ensure!(
        claims.generation >= signer.generation,
        "its generation {} is older than {}, the one of this machine; write the documents again \
         with the newest `pki/` folder",
        claims.generation,
        signer.generation
    );
    if claims.generation > signer.generation {
        let record = Record::new(source, seed, Some(Signer::of(&signature)), signature.digest);
        return Ok(Verdict::Newer(Box::new(record)));
    }
    ensure!(
        signature.digest == kept.digest,
        "it differs from this machine's document and has the same generation {}: digest {} instead \
         of {}; write the documents again with the newest `pki/` folder",
        claims.generation,
        &signature.digest[..12],
        &kept.digest[..12]
    );
    Ok(Verdict::Same)
}

/// Fails if the document is for another host than its signature says.
pub fn check_names(record: &Record, host: &Host) -> Result<()> {
    let (Some(signer), Some(node)) = (&record.signer, &host.node) else {
        return Ok(());
    };
    ensure!(
        signer.host == node.name && signer.cluster == node.cluster,
        "the document of `{}` of the cluster `{}` is signed for `{}` of `{}`",
        node.name,
        node.cluster,
        signer.host,
        signer.cluster
    );
    Ok(())
}

/// Why this seed has no document for a machine without one.
pub fn no_document(seed: &Seed) -> Option<&'static str> {
    if scrub::is_scrubbed(seed) {
        return Some(
            "its secrets were removed when its machine was ready; write a new seed with imagegen",
        );
    }
    let is_token = read(seed)
        .is_ok_and(|found| matches!(found, Ok(signature) if signature.kind == Kind::Reset));
    is_token.then_some("it is a reset token, and this machine has no document to forget")
}

/// `firstboot reset`: the next boot takes a document as if it were the first. Returns what to tell.
pub fn reset(root: &Root) -> Result<String> {
    let what = match Record::open(root) {
        Ok(None) => return Ok("this machine has no document; nothing to forget".to_owned()),
        Ok(Some(kept)) => {
            let generation = kept.signer.as_ref().map_or(0, |signer| signer.generation);
            kept.forget(root, generation)?;
            format!("the document is forgotten: {}", kept.describe())
        }
        // Both copies are damaged, and this is the cure.
        Err(_) => {
            record::remove(root).context("removing the damaged record")?;
            "the damaged record of the document is removed".to_owned()
        }
    };
    Ok(format!(
        "{what}\nThe next boot takes the first document that it finds. Users, files and the data of \
         Kubernetes stay; for an empty machine write the disk again with `imagegen flash`."
    ))
}

fn read(seed: &Seed) -> Result<Result<Signature, String>, String> {
    signature::read(&Files {
        user_data: &seed.user_data,
        meta_data: &seed.meta_data,
        network_config: seed.network_config.as_deref(),
        vendor_data: seed.vendor_data.as_deref(),
    })
}

fn verify(signature: &Signature) -> Result<(), String> {
    UnparsedPublicKey::new(&ED25519, &signature.key)
        .verify(signature.statement().as_bytes(), &signature.signature)
        .map_err(|_| {
            "its signature does not fit: user-data, meta-data, network-config or vendor-data was \
             changed after imagegen signed them"
                .to_owned()
        })
}

fn unusable(seed: &Seed, why: &str) -> anyhow::Error {
    anyhow!(
        "{}/user-data: {why}; write the documents again with imagegen, or remove the line \
         `{}` to use it without a signature, on the first boot only",
        seed.origin,
        signature::MARK
    )
}
