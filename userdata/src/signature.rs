//! The signature of a document: for which host it is, and which of two is newer.
//!
//! The last line of `user-data` is a comment, so that cloud-init reads the file too. It signs a
//! short [`statement`] with the digests of all files, by Ed25519. imagegen signs and firstboot
//! verifies; this module has the bytes that both mean.
//!
//! A *reset token* has the same line below [`RESET_MARK`] and asks a host to forget its document.

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::cloud_config;

/// Begins the line of the signature.
pub const MARK: &str = "# firstlight-signature:";

/// All that a reset token has above its signature.
pub const RESET_MARK: &str = "#firstlight-reset\n";

/// Begins a `user-data` from which firstboot has removed the secrets.
pub const SCRUBBED_MARK: &str = "#firstlight-scrubbed\n";

const VERSION: &str = "v1";

/// The files of a seed, as a source delivered them.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    pub user_data: &'a [u8],
    /// An empty file is as good as none.
    pub meta_data: &'a [u8],
    pub network_config: Option<&'a [u8]>,
    pub vendor_data: Option<&'a [u8]>,
}

// The bytes hold keys.
impl std::fmt::Debug for Files<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files(..)")
    }
}

/// What the signed text asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Document,
    Reset,
}

/// What the signature says of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub cluster: String,
    pub host: String,
    /// imagegen counts it up for each changed document of a host.
    pub generation: u64,
}

/// The line of a signature, read and not verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub kind: Kind,
    pub claims: Claims,
    /// The public key of the cluster's documents.
    pub key: [u8; 32],
    pub signature: [u8; 64],
    /// [`digest`] of the files.
    pub digest: String,
}

impl Signature {
    /// The bytes that are signed.
    pub fn statement(&self) -> String {
        statement(self.kind, &self.claims, &self.key, &self.digest)
    }
}

/// The bytes that are signed: few, so that `openssl pkeyutl -verify -rawin` can check them too.
pub fn statement(kind: Kind, claims: &Claims, key: &[u8; 32], digest: &str) -> String {
    let kind = match kind {
        Kind::Document => "document",
        Kind::Reset => "reset",
    };
    let Claims {
        cluster,
        host,
        generation,
    } = claims;
    let key = STANDARD.encode(key);
    format!(
        "firstlight {kind} {VERSION}\nkey {key}\ncluster {cluster}\nhost {host}\n\
         generation {generation}\ndigest {digest}\n"
    )
}

/// The line of a signature, to be appended to `user-data`.
pub fn line(claims: &Claims, key: &[u8; 32], signature: &[u8; 64]) -> String {
    let Claims {
        cluster,
        host,
        generation,
    } = claims;
    let (key, signature) = (STANDARD.encode(key), STANDARD.encode(signature));
    format!(
        "{MARK} {VERSION} cluster={cluster} host={host} generation={generation} key={key} \
         signature={signature}\n"
    )
}

/// SHA-256 of the digests of all files, in hexadecimal. `files.user_data` is unpacked and has no
/// signature.
pub fn digest(files: &Files<'_>) -> String {
    let present = |bytes: &[u8]| hex(&Sha256::digest(bytes));
    let optional = |bytes: Option<&[u8]>| bytes.map_or_else(|| "none".to_owned(), present);
    hex(&Sha256::digest(format!(
        "user-data {}\nmeta-data {}\nnetwork-config {}\nvendor-data {}\n",
        present(files.user_data),
        present(files.meta_data),
        optional(files.network_config),
        optional(files.vendor_data),
    )))
}

/// The signature of these files, or their digest if they have none. An error is the reason why the
/// signature is void, although its key may be right.
pub fn read(files: &Files<'_>) -> Result<Result<Signature, String>, String> {
    let user_data = cloud_config::unpacked(files.user_data)?;
    let user_data: Cow<'_, [u8]> = user_data;
    let mark = MARK.as_bytes();
    let starts: Vec<usize> = std::iter::once(0)
        .chain(
            user_data
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte == b'\n')
                .map(|(at, _)| at + 1),
        )
        .filter(|start| user_data[*start..].starts_with(mark))
        .collect();
    let unsigned = |user_data: &[u8]| {
        digest(&Files {
            user_data,
            ..*files
        })
    };
    let start = match starts.as_slice() {
        [] => return Ok(Err(unsigned(&user_data))),
        [start] => *start,
        _ => return Err("it has more than one signature".to_owned()),
    };
    let (body, line) = user_data.split_at(start);
    let Some(line) = line
        .strip_suffix(b"\n")
        .filter(|line| !line.contains(&b'\n'))
    else {
        return Err(
            "its signature is not its last line: something was added or removed there".to_owned(),
        );
    };
    let kind = if body == RESET_MARK.as_bytes() {
        Kind::Reset
    } else if body.starts_with(b"#cloud-config\n") {
        Kind::Document
    } else {
        // A template or a list of URLs would bring unsigned text.
        return Err("it has a signature, but is no plain `#cloud-config`".to_owned());
    };
    let (claims, key, signature) = fields(&line[mark.len()..])
        .ok_or_else(|| "the line of its signature is damaged".to_owned())?;
    Ok(Ok(Signature {
        kind,
        claims,
        key,
        signature,
        digest: unsigned(body),
    }))
}

/// Claims, key and signature of a line without its mark.
fn fields(line: &[u8]) -> Option<(Claims, [u8; 32], [u8; 64])> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.strip_prefix(' ')?.split(' ');
    if words.next()? != VERSION {
        return None;
    }
    let mut field = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=');
    let claims = Claims {
        cluster: field("cluster")?.to_owned(),
        host: field("host")?.to_owned(),
        generation: field("generation")?.parse().ok()?,
    };
    let key = STANDARD.decode(field("key")?).ok()?.try_into().ok()?;
    let signature = STANDARD.decode(field("signature")?).ok()?.try_into().ok()?;
    words.next().is_none().then_some((claims, key, signature))
}

/// How messages name a key: `sha256:` and the first digits of its digest.
pub fn key_name(key: &[u8]) -> String {
    format!("sha256:{}", &hex(&Sha256::digest(key))[..12])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            cluster: "prod".to_owned(),
            host: "m0".to_owned(),
            generation: 7,
        }
    }

    fn of(user_data: &str) -> Result<Result<Signature, String>, String> {
        read(&Files {
            user_data: user_data.as_bytes(),
            meta_data: b"",
            network_config: None,
            vendor_data: None,
        })
    }

    #[test]
    fn line_is_read_back() {
        let line = line(&claims(), &[1; 32], &[2; 64]);
        let found = of(&format!("#cloud-config\nhostname: m0\n{line}"))
            .unwrap()
            .unwrap();
        assert_eq!(found.claims, claims());
        assert_eq!((found.key, found.signature), ([1; 32], [2; 64]));
        assert_eq!(found.kind, Kind::Document);
        assert_eq!(
            Err(found.digest),
            of("#cloud-config\nhostname: m0\n").unwrap()
        );
        let token = of(&format!("{RESET_MARK}{line}")).unwrap().unwrap();
        assert_eq!(token.kind, Kind::Reset);
        assert_ne!(
            token.statement(),
            statement(Kind::Document, &claims(), &[1; 32], &token.digest)
        );
    }

    #[test]
    fn signature_is_one_and_last_and_of_a_plain_cloud_config() {
        let line = line(&claims(), &[1; 32], &[2; 64]);
        for (text, why) in [
            (format!("#cloud-config\n{line}{line}"), "more than one"),
            (format!("#cloud-config\n{line}\n"), "not its last line"),
            (format!("#cloud-config\n{line}a: b\n"), "not its last line"),
            (
                format!("#cloud-config\n{}", line.trim_end()),
                "not its last line",
            ),
            (
                format!("## template: jinja\n#cloud-config\n{line}"),
                "no plain",
            ),
            (format!("#include\nhttp://a/\n{line}"), "no plain"),
            (format!("#cloud-config\r\n{line}"), "no plain"),
            (format!("\u{feff}#cloud-config\n{line}"), "no plain"),
            (
                format!("#cloud-config\n{}", line.replace("v1", "v2")),
                "damaged",
            ),
            (
                format!("#cloud-config\n{}", line.replace(" host", "  host")),
                "damaged",
            ),
            (
                format!("#cloud-config\n{}", line.replace('\n', "\r\n")),
                "damaged",
            ),
        ] {
            let refusal = of(&text).unwrap_err();
            assert!(refusal.contains(why), "{text:?}: {refusal}");
        }
        // In the text of a file it is no signature.
        assert!(
            of(&format!("#cloud-config\na: |\n  {line}"))
                .unwrap()
                .is_err()
        );
    }

    #[test]
    fn digest_tells_absent_files_and_their_order() {
        let files = Files {
            user_data: b"a",
            meta_data: b"b",
            network_config: None,
            vendor_data: None,
        };
        let all = [
            files,
            Files {
                user_data: b"b",
                meta_data: b"a",
                ..files
            },
            Files {
                network_config: Some(b""),
                ..files
            },
            Files {
                vendor_data: Some(b""),
                ..files
            },
        ];
        let digests: std::collections::BTreeSet<_> = all.iter().map(digest).collect();
        assert_eq!(digests.len(), all.len());
    }
}
