//! Checksum files, in the forms in which upstream's projects publish them.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use build_tools::cache::hex;
use sha2::{Digest as _, Sha256};

/// The SHA-256 of `name` in a checksum file: a bare digest, or lines of `sha256sum`. Text around
/// them, such as that of a PGP signature, is no line of one.
pub(super) fn find(text: &str, name: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let digest = words.next().filter(|word| is_sha256(word))?;
        let file = words.next().map(|file| file.trim_start_matches('*'));
        let file = file.map(|file| file.rsplit('/').next().unwrap_or(file));
        words.next().is_none().then_some((digest, file))
    });
    let lines: Vec<_> = lines.collect();
    let named = lines.iter().find(|(_, file)| *file == Some(name));
    let bare = || match lines.as_slice() {
        [only @ (_, None)] => Some(only),
        _ => None,
    };
    named
        .or_else(bare)
        .map(|(digest, _)| digest.to_ascii_lowercase())
}

pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The SHA-256 of a file, as lower-case hexadecimal.
pub(super) fn of(path: &Path) -> Result<String> {
    let reading = || format!("reading `{}`", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 18]);
    loop {
        match file.read(&mut buffer).with_context(reading)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// A digest that a person knows from elsewhere: `docker-28.5.2.tgz=HEX`.
#[derive(Debug, Clone)]
pub struct Pin {
    pub(super) name: String,
    pub(super) sha256: String,
}

/// `FILE=SHA256`.
pub fn parse_pin(text: &str) -> Result<Pin, String> {
    let (name, digest) = text.split_once('=').unwrap_or((text, ""));
    let digest = digest.strip_prefix("sha256:").unwrap_or(digest);
    if name.is_empty() || !is_sha256(digest) {
        return Err(
            "write the file's name and 64 hexadecimal digits: `docker-28.5.2.tgz=0123…`".to_owned(),
        );
    }
    Ok(Pin {
        name: name.to_owned(),
        sha256: digest.to_ascii_lowercase(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_every_project_are_read() {
        let (a, b) = ("a".repeat(64), "B".repeat(64));
        let signed = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{a}  runc.amd64\n\
             {b} *runc.arm64\n-----BEGIN PGP SIGNATURE-----\niQIz\n"
        );
        let low = b.to_lowercase();
        for (text, name, wanted) in [
            (a.clone(), "kubeadm", Some(&a)),
            (format!("{a}\n"), "crictl.tar.gz", Some(&a)),
            (format!("{a}  ./plugins.tgz\n"), "plugins.tgz", Some(&a)),
            (format!("{a}  other.tgz\n"), "plugins.tgz", None),
            (format!("{a}\n{b}\n"), "kubeadm", None),
            (signed.clone(), "runc.arm64", Some(&low)),
            (signed, "runc.s390x", None),
            ("<html>not found</html>".to_owned(), "kubeadm", None),
            (String::new(), "kubeadm", None),
        ] {
            assert_eq!(find(&text, name).as_ref(), wanted, "{name} in {text}");
        }
    }
}
