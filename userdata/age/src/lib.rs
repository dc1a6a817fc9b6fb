//! age's file format, version 1, with one passphrase (<https://age-encryption.org/v1>): `age -d`
//! opens what [`seal`] writes, and [`Sealed`] opens what `age -p -a` writes.
//!
//! Only the framing is here; ring and scrypt do the cryptography. The crate `age` 0.12 would bring a
//! hundred others, a dozen of them second versions and one a pre-release, into a program that every
//! node has.
//!
//! Works on bytes in memory: opens no file, reads no clock and does not log.

mod armor;
mod header;
mod payload;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};

pub use armor::BEGIN;
use header::{Header, INTRO};

/// The work factor of [`seal`], whose passphrases no one can guess: 1 MiB and a few milliseconds.
pub const WORK_FACTOR: u8 = 10;

/// The default of `age -p`: 256 MiB and a second.
pub const MAX_WORK_FACTOR: u8 = 18;

/// scrypt takes 2 to the power of `work factor` times this in memory.
const BLOCK_BYTES: u64 = 1024;

const FILE_KEY: usize = 16;
const KEY: usize = 32;
const TAG: usize = 16;
const SALT_LABEL: &[u8] = b"age-encryption.org/v1/scrypt";

/// Why a file cannot be opened. Never quotes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No passphrase opens it.
    #[error("the encrypted file is damaged: {0}")]
    Damaged(&'static str),
    /// It has no passphrase.
    #[error("it is encrypted to a key of the kind `{0}`, and not with a passphrase (`age -p`)")]
    OtherKind(String),
    /// Trying a passphrase costs too much.
    #[error(
        "its work factor is {found}, so that a try takes {} MiB of memory; at most {most} is allowed",
        memory(*found) >> 20
    )]
    WorkFactor { found: u8, most: u8 },
    #[error("this passphrase does not open it")]
    WrongPassphrase,
}

/// The memory of one try, in bytes.
fn memory(work_factor: u8) -> u64 {
    BLOCK_BYTES.saturating_mul(1_u64.checked_shl(work_factor.into()).unwrap_or(u64::MAX))
}

/// Whether these bytes are an encrypted file.
pub fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(BEGIN.as_bytes()) || bytes.starts_with(INTRO)
}

/// An encrypted file with a passphrase.
pub struct Sealed {
    header: Header,
    payload: Vec<u8>,
}

// Its bytes are of no use to a reader of logs.
impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} bytes)", self.payload.len())
    }
}

impl Sealed {
    /// Reads a file, in letters or binary. A work factor above `most` is an error.
    pub fn read(bytes: &[u8], most: u8) -> Result<Self, Error> {
        let binary;
        let bytes = if bytes.starts_with(INTRO) {
            bytes
        } else {
            binary = armor::read(bytes)?;
            &binary
        };
        let (header, payload) = Header::read(bytes)?;
        if header.work_factor > most {
            return Err(Error::WorkFactor {
                found: header.work_factor,
                most,
            });
        }
        Ok(Self {
            header,
            payload: payload.to_vec(),
        })
    }

    /// The contents.
    pub fn open(&self, passphrase: &str) -> Result<Vec<u8>, Error> {
        let header = &self.header;
        let wrap = wrap_key(passphrase, &header.salt, header.work_factor);
        let mut body = header.body.clone();
        let file_key = aead(&wrap)
            .open_in_place(zero_nonce(), Aad::empty(), &mut body)
            .map_err(|_| Error::WrongPassphrase)?;
        hmac::verify(&mac_key(file_key), &header.signed, &header.mac)
            .map_err(|_| Error::Damaged("its header was changed"))?;
        payload::open(file_key, &self.payload)
    }
}

/// Encrypts `plain` with `passphrase`, in letters. The same input gives the same file: salt, key and
/// nonce come from a secret function of both, so that equal files show that two documents are equal,
/// and nothing else. `passphrase` must be random, since [`WORK_FACTOR`] does not slow down guessing.
pub fn seal(plain: &[u8], passphrase: &str) -> String {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, passphrase.as_bytes());
    let mut context = hmac::Context::with_key(&secret);
    context.update(b"firstlight document\n");
    context.update(plain);
    let seed = context.sign();
    let derive = |what: &[u8], out: &mut [u8]| expand(b"", seed.as_ref(), what, out);
    let (mut salt, mut file_key, mut nonce) = ([0; 16], [0; FILE_KEY], [0; payload::NONCE]);
    derive(b"salt", &mut salt);
    derive(b"file key", &mut file_key);
    derive(b"nonce", &mut nonce);
    let wrap = wrap_key(passphrase, &salt, WORK_FACTOR);
    let mut body = file_key.to_vec();
    encrypt(&aead(&wrap), zero_nonce(), &mut body);
    let signed = header::text(&salt, WORK_FACTOR, &body);
    let mac = hmac::sign(&mac_key(&file_key), signed.as_bytes());
    let mut file = format!("{signed} {}\n", STANDARD_NO_PAD.encode(mac)).into_bytes();
    payload::seal(&file_key, &nonce, plain, &mut file);
    armor::write(&file)
}

/// The key that encrypts the key of the file.
fn wrap_key(passphrase: &str, salt: &[u8], work_factor: u8) -> [u8; KEY] {
    let mut key = [0; KEY];
    let salt = [SALT_LABEL, salt].concat();
    let derived = scrypt::Params::new(work_factor, 8, 1)
        .map(|params| scrypt::scrypt(passphrase.as_bytes(), &salt, &params, &mut key));
    assert!(
        matches!(derived, Ok(Ok(()))),
        "scrypt takes every work factor that `Header::read` lets through"
    );
    key
}

fn mac_key(file_key: &[u8]) -> hmac::Key {
    let mut key = [0; KEY];
    expand(b"", file_key, b"header", &mut key);
    hmac::Key::new(hmac::HMAC_SHA256, &key)
}

/// HKDF-SHA-256.
fn expand(salt: &[u8], secret: &[u8], info: &[u8], out: &mut [u8]) {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    let filled = prk
        .expand(&[info], Length(out.len()))
        .and_then(|okm| okm.fill(out));
    assert!(filled.is_ok(), "a key is short enough for HKDF");
}

fn aead(key: &[u8; KEY]) -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key);
    LessSafeKey::new(key.unwrap_or_else(|_| unreachable!("the key has 32 bytes")))
}

fn encrypt(key: &LessSafeKey, nonce: Nonce, bytes: &mut Vec<u8>) {
    let sealed = key.seal_in_place_append_tag(nonce, Aad::empty(), bytes);
    assert!(sealed.is_ok(), "a chunk is short enough for ChaCha20");
}

/// Each key encrypts one thing only.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test reads its vectors")]
mod tests;
