//! SSH host keys that the document brings.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::SSH;
use crate::system::command;
use crate::system::files::Root;
use userdata::cloud_config::HostKey;

/// The types with a private key.
pub(super) fn kinds(keys: &[HostKey]) -> BTreeSet<&str> {
    let private = keys.iter().filter(|key| key.part == "private");
    private.map(|key| key.kind.as_str()).collect()
}

/// Path, text and mode.
pub(super) fn files(keys: &[HostKey]) -> Vec<(String, String, u32)> {
    let file = |key: &HostKey| {
        let path = path(&key.kind);
        // A key without a line break at its end is refused.
        let text = format!("{}\n", key.text.expose().trim_end());
        match key.part.as_str() {
            "private" => (path, text, 0o600),
            "public" => (format!("{path}.pub"), text, 0o644),
            _ => (format!("{path}-cert.pub"), text, 0o644),
        }
    };
    keys.iter().map(file).collect()
}

/// The lines of sshd's configuration: which keys it has, and their certificates.
pub(super) fn configuration(keys: &[HostKey]) -> String {
    let mut text = String::new();
    for kind in kinds(keys) {
        text.push_str(&format!("HostKey {}\n", path(kind)));
    }
    for key in keys.iter().filter(|key| key.part == "certificate") {
        text.push_str(&format!("HostCertificate {}-cert.pub\n", path(&key.kind)));
    }
    text
}

/// Makes the public part of each private key that comes without one.
pub(super) fn complete(root: &Root, keys: &[HostKey]) -> Result<()> {
    for kind in kinds(keys) {
        let path = path(kind);
        let given = keys
            .iter()
            .any(|key| key.kind == kind && key.part == "public");
        if given {
            continue;
        }
        let public = command::output("ssh-keygen", &["-y", "-f", &path])
            .with_context(|| format!("reading the SSH host key `{path}`"))?;
        ensure!(!public.trim().is_empty(), "`{path}` has no public part");
        let mode = crate::system::files::Attributes::mode(0o644);
        root.write(format!("{path}.pub"), public.as_bytes(), mode)?;
    }
    Ok(())
}

fn path(kind: &str) -> String {
    format!("{SSH}/ssh_host_{kind}_key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_get_the_names_that_sshd_knows() {
        let key = |kind: &str, part: &str| HostKey {
            kind: kind.to_owned(),
            part: part.to_owned(),
            text: format!("{kind} {part}").into(),
        };
        let keys = [
            key("ed25519", "private"),
            key("ed25519", "certificate"),
            key("rsa", "public"),
        ];
        let expected = [
            ("/etc/ssh/ssh_host_ed25519_key", "ed25519 private\n", 0o600),
            (
                "/etc/ssh/ssh_host_ed25519_key-cert.pub",
                "ed25519 certificate\n",
                0o644,
            ),
            ("/etc/ssh/ssh_host_rsa_key.pub", "rsa public\n", 0o644),
        ];
        let files = files(&keys);
        let files: Vec<_> = files
            .iter()
            .map(|(path, text, mode)| (path.as_str(), text.as_str(), *mode))
            .collect();
        assert_eq!(files, expected);
        assert_eq!(
            configuration(&keys),
            "HostKey /etc/ssh/ssh_host_ed25519_key\n\
             HostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub\n"
        );
        assert_eq!(configuration(&[]), "");
    }
}
