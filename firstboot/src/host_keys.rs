//! The fingerprints of the SSH server's keys, by which a person recognises the machine at the first
//! login.

use anyhow::Result;

use crate::system::command;
use crate::system::files::Root;

const FOLDER: &str = "/etc/ssh";
/// `ssh-keygen` reads the keys of one file, and a process costs more than a file.
const ALL_KEYS: &str = "/run/firstlight/ssh-host-keys.pub";

/// One line for each key, as `ssh-keygen -l` prints it without the comment:
/// `256 SHA256:… (ED25519)`. Empty if there is no key.
pub fn fingerprints(root: &Root) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    let mut names = root.list(FOLDER)?;
    names.sort();
    for name in names {
        if name.starts_with("ssh_host_") && name.ends_with("_key.pub") {
            keys.extend(root.read(format!("{FOLDER}/{name}"))?.unwrap_or_default());
        }
    }
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    root.write_volatile(ALL_KEYS, &keys)?;
    let file = root.join(ALL_KEYS).display().to_string();
    let lines = command::output("ssh-keygen", &["-l", "-f", &file])?;
    Ok(lines.lines().map(without_comment).collect())
}

/// `256 SHA256:… root@firstlight (ED25519)` without the third word, which is of the first boot.
fn without_comment(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [size, print, .., kind] => format!("{size} {print} {kind}"),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comment_of_a_key_is_left_out() {
        let line = "256 SHA256:abc root@a b (ED25519)";
        assert_eq!(without_comment(line), "256 SHA256:abc (ED25519)");
        assert_eq!(without_comment("odd"), "odd");
    }

    #[test]
    fn machine_without_keys_has_no_fingerprints() {
        let dir = tempfile::tempdir().unwrap();
        let prints = fingerprints(&Root::new(dir.path())).unwrap();
        assert!(prints.is_empty());
    }
}
