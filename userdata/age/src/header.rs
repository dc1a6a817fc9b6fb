//! The header: who can open the file. With a passphrase it has one stanza, `scrypt`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::{Error, FILE_KEY, TAG};

pub(crate) const INTRO: &[u8] = b"age-encryption.org/v1\n";
const STANZA: &str = "-> ";
const SCRYPT: &str = "scrypt";
const MAC: &str = "---";
/// Longer than any line of a header.
const LINE: usize = 1024;

pub(crate) struct Header {
    pub(crate) salt: [u8; 16],
    /// The logarithm of scrypt's N.
    pub(crate) work_factor: u8,
    /// The encrypted key of the file.
    pub(crate) body: Vec<u8>,
    /// What [`mac`](Self::mac) authenticates.
    pub(crate) signed: Vec<u8>,
    pub(crate) mac: [u8; 32],
}

/// The header up to its MAC.
pub(crate) fn text(salt: &[u8; 16], work_factor: u8, body: &[u8]) -> String {
    let (salt, body) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(body));
    let intro = String::from_utf8_lossy(INTRO);
    format!("{intro}{STANZA}{SCRYPT} {salt} {work_factor}\n{body}\n{MAC}")
}

impl Header {
    /// The header of a binary file, and what follows it.
    pub(crate) fn read(file: &[u8]) -> Result<(Self, &[u8]), Error> {
        let damaged = || Error::Damaged("its header cannot be read");
        let rest = file.strip_prefix(INTRO).ok_or_else(damaged)?;
        let (stanza, rest) = line(rest).ok_or_else(damaged)?;
        let stanza = stanza.strip_prefix(STANZA).ok_or_else(damaged)?;
        let mut words = stanza.split(' ');
        let kind = words.next().unwrap_or_default();
        if kind != SCRYPT {
            let shown = kind.chars().filter(char::is_ascii_graphic).take(40);
            return Err(Error::OtherKind(shown.collect()));
        }
        let salt = decode(words.next().ok_or_else(damaged)?)?;
        let factor = words.next().ok_or_else(damaged)?;
        let is_number = factor.bytes().all(|byte| byte.is_ascii_digit());
        if words.next().is_some() || !is_number || factor.starts_with('0') {
            return Err(damaged());
        }
        // More digits than fit are too much work in any case.
        let work_factor = match factor.parse::<u8>() {
            Ok(number) => number,
            Err(_) if factor.is_empty() => return Err(damaged()),
            Err(_) => u8::MAX,
        };
        let (body, rest) = line(rest).ok_or_else(damaged)?;
        let body: [u8; FILE_KEY + TAG] = decode(body)?;
        let signed = file.len() - rest.len() + MAC.len();
        let (mac, payload) = line(rest).ok_or_else(damaged)?;
        if mac.starts_with(STANZA) {
            return Err(Error::Damaged("it has another key beside its passphrase"));
        }
        let mac = mac.strip_prefix(MAC).and_then(|mac| mac.strip_prefix(' '));
        let header = Self {
            salt,
            work_factor,
            body: body.to_vec(),
            signed: file[..signed].to_vec(),
            mac: decode(mac.ok_or_else(damaged)?)?,
        };
        Ok((header, payload))
    }
}

/// The first line, and what follows it.
fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().take(LINE).position(|byte| *byte == b'\n')?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    Some((text, &bytes[end + 1..]))
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], Error> {
    let bytes = STANDARD_NO_PAD.decode(text).ok();
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(Error::Damaged("its header cannot be read"))
}
