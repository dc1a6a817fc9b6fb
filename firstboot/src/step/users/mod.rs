//! Users who may log in, and the SSH server, which is enabled only if some user has a key.
//!
//! The image ships `ssh.service` disabled and has no host keys, or all its machines would look like
//! one to a client. Both are created in /etc, which the state partition keeps.

use std::fmt;

use anyhow::{Context, Result};

use super::Step;
use super::ssh::SSH_UNIT;
use crate::report::Reporter;
use crate::system::files::{Attributes, Root};
use crate::system::{accounts, command, systemd};
use userdata::cloud_config::User as Account;

/// Not in home directories, so that a later document replaces them.
const KEYS: &str = "/etc/ssh/authorized_keys.d";
const SSH: &str = "/etc/ssh";
/// Exists while SSH is enabled.
pub(crate) const SSHD_CONFIG: &str = "/etc/ssh/sshd_config.d/10-firstlight.conf";
const SSHD_TEXT: &str = "# Written by firstboot: keys of the document.\n\
    AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/authorized_keys.d/%u\n";

/// The key types of sshd's default `HostKey`.
const HOST_KEY_TYPES: [&str; 3] = ["rsa", "ecdsa", "ed25519"];

#[derive(Debug)]
pub struct Users {
    pub root: Root,
    pub users: Vec<Account>,
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.users.is_empty() {
            return f.write_str("disable SSH and remove its keys");
        }
        let names: Vec<_> = self.users.iter().map(|user| user.name.as_str()).collect();
        write!(f, "create users and SSH keys: {}", names.join(", "))
    }
}

impl Step for Users {
    fn name(&self) -> &'static str {
        "users"
    }

    fn is_done(&self) -> Result<bool> {
        if !self.stale_keys()?.is_empty() || self.is_ssh_stale() {
            return Ok(false);
        }
        for (path, text, mode) in self.files() {
            if !self
                .root
                .holds(&path, text.as_bytes(), Attributes::mode(mode))?
            {
                return Ok(false);
            }
        }
        if !self.root.is_machine() {
            return Ok(true);
        }
        for user in &self.users {
            if accounts::user(&self.root, &user.name)?.is_none() {
                return Ok(false);
            }
        }
        Ok(!have_keys(&self.users) || self.has_host_keys()? && systemd::is_enabled(SSH_UNIT)?)
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        if self.root.is_machine() {
            for user in &self.users {
                if accounts::user(&self.root, &user.name)?.is_none() {
                    command::run("useradd", &useradd(user))
                        .with_context(|| format!("creating user `{}`", user.name))?;
                }
            }
        }
        for user in self.stale_keys()? {
            self.root.remove(format!("{KEYS}/{user}"))?;
            log::info!("removed the SSH keys of `{user}`");
        }
        if self.is_ssh_stale() {
            if self.root.is_machine() {
                systemd::disable(SSH_UNIT)?;
                systemd::stop(SSH_UNIT)?;
            }
            // Last, so that an interrupted try is repeated.
            self.root.remove(SSHD_CONFIG)?;
        }
        for (path, text, mode) in self.files() {
            self.root
                .write(&path, text.as_bytes(), Attributes::mode(mode))?;
        }
        if self.root.is_machine() && have_keys(&self.users) {
            // Creates the missing ones and replaces empty ones. It does not sync: a power cut could
            // leave an enabled server without keys.
            command::run("ssh-keygen", &["-A"]).context("creating the SSH host keys")?;
            self.root.sync(SSH)?;
            systemd::enable(SSH_UNIT)?;
        }
        Ok(())
    }
}

impl Users {
    /// Users with keys of an earlier document and none in this one.
    fn stale_keys(&self) -> Result<Vec<String>> {
        let mut names = self.root.list(KEYS)?;
        names.retain(|name| {
            !self
                .users
                .iter()
                .any(|user| user.name == *name && !user.ssh_authorized_keys.is_empty())
        });
        Ok(names)
    }

    /// Whether an earlier document enabled SSH and this one has no keys.
    fn is_ssh_stale(&self) -> bool {
        !have_keys(&self.users) && self.root.exists(SSHD_CONFIG)
    }

    /// Whether every host key is there. A power cut may have left an empty file.
    fn has_host_keys(&self) -> Result<bool> {
        for kind in HOST_KEY_TYPES {
            let key = self.root.read(format!("{SSH}/ssh_host_{kind}_key"))?;
            if key.unwrap_or_default().is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn files(&self) -> Vec<(String, String, u32)> {
        let mut files = Vec::new();
        for user in &self.users {
            if !user.ssh_authorized_keys.is_empty() {
                files.push((
                    format!("{KEYS}/{}", user.name),
                    user.ssh_authorized_keys.join("\n") + "\n",
                    0o644,
                ));
            }
            if !user.sudo.is_empty() {
                let lines: String = user
                    .sudo
                    .iter()
                    .map(|rule| format!("{} {rule}\n", user.name))
                    .collect();
                files.push((
                    format!(
                        "/etc/sudoers.d/90-firstlight-{}",
                        user.name.replace('.', "_")
                    ),
                    lines,
                    0o440,
                ));
            }
        }
        if have_keys(&self.users) {
            files.push((SSHD_CONFIG.to_owned(), SSHD_TEXT.to_owned(), 0o644));
        }
        files
    }
}

/// Whether anybody can log in over SSH: accounts have no passwords, so only a key lets a user in.
pub fn have_keys(users: &[Account]) -> bool {
    users
        .iter()
        .any(|user| !user.ssh_authorized_keys.is_empty())
}

fn useradd(user: &Account) -> Vec<String> {
    // Home directories are in the state partition; /home is a link on the read-only root.
    let home = user
        .homedir
        .clone()
        .unwrap_or_else(|| format!("/var/home/{}", user.name));
    let shell = user.shell.clone().unwrap_or_else(|| "/bin/bash".to_owned());
    let create = if user.no_create_home {
        "--no-create-home"
    } else {
        "--create-home"
    };
    let mut arguments = vec![
        create.to_owned(),
        "--home-dir".to_owned(),
        home,
        "--shell".to_owned(),
        shell,
    ];
    if let Some(uid) = user.uid {
        arguments.extend(["--uid".to_owned(), uid.to_string()]);
    }
    if let Some(gecos) = &user.gecos {
        arguments.extend(["--comment".to_owned(), gecos.clone()]);
    }
    if user.system {
        arguments.push("--system".to_owned());
    }
    if !user.groups.is_empty() {
        arguments.extend(["--groups".to_owned(), user.groups.join(",")]);
    }
    if let Some(group) = &user.primary_group {
        arguments.extend(["--gid".to_owned(), group.clone()]);
    } else if user.no_user_group {
        arguments.push("--no-user-group".to_owned());
    }
    if let Some(days) = user.inactive {
        arguments.extend(["--inactive".to_owned(), days.to_string()]);
    }
    if let Some(date) = &user.expiredate {
        arguments.extend(["--expiredate".to_owned(), date.clone()]);
    }
    arguments.push(user.name.clone());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, keys: &[&str]) -> Account {
        Account {
            name: name.to_owned(),
            ssh_authorized_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            ..Account::default()
        }
    }

    fn paths(users: Vec<Account>) -> Vec<String> {
        let root = Root::new("/nowhere");
        let files = Users { root, users }.files();
        files.into_iter().map(|(path, ..)| path).collect()
    }

    #[test]
    fn keys_are_written_where_sshd_looks() {
        let root = Root::new("/nowhere");
        let users = vec![user("root", &["ssh-ed25519 A", "ssh-ed25519 B"])];
        let files = Users { root, users }.files();
        let [(keys, text, mode), (config, settings, _)] = files.as_slice() else {
            panic!("{files:?}")
        };
        assert_eq!(text, "ssh-ed25519 A\nssh-ed25519 B\n");
        // sshd reads them as the user who logs in.
        assert_eq!(*mode, 0o644);
        assert_eq!(config, SSHD_CONFIG);
        assert!(
            settings.contains(&keys.replace("/root", "/%u")),
            "{settings}"
        );
    }

    #[test]
    fn without_keys_sshd_is_not_configured() {
        assert_eq!(paths(vec![user("operator", &[])]), [""; 0]);
        assert!(!have_keys(&[user("operator", &[])]));
        assert!(have_keys(&[
            user("operator", &[]),
            user("root", &["ssh-ed25519 A"])
        ]));
    }
    #[test]
    fn keys_that_the_document_no_longer_has_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mut report = Reporter::silent(&root);
        let mut apply = |users: Vec<Account>| {
            let root = root.clone();
            let step = Users { root, users };
            assert!(!step.is_done().unwrap());
            step.apply(&mut report).unwrap();
            assert!(step.is_done().unwrap());
        };
        let (root_key, operator_key) = (["ssh-ed25519 A"], ["ssh-ed25519 B"]);
        apply(vec![
            user("root", &root_key),
            user("operator", &operator_key),
        ]);
        assert_eq!(root.list(KEYS).unwrap(), ["operator", "root"]);
        apply(vec![user("root", &[]), user("operator", &operator_key)]);
        assert_eq!(root.list(KEYS).unwrap(), ["operator"]);
        assert!(root.exists(SSHD_CONFIG));
        apply(Vec::new());
        assert_eq!(root.list(KEYS).unwrap(), [""; 0]);
        assert!(!root.exists(SSHD_CONFIG));
    }

    #[test]
    fn every_host_key_must_be_there_and_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        let users = Users {
            root: Root::new(dir.path()),
            users: Vec::new(),
        };
        let write = |kind: &str, bytes: &[u8]| {
            let path = format!("{SSH}/ssh_host_{kind}_key");
            let mode = Attributes::mode(0o600);
            users.root.write(path, bytes, mode).unwrap();
        };
        for kind in HOST_KEY_TYPES {
            assert!(!users.has_host_keys().unwrap(), "without {kind}");
            write(kind, b"key");
        }
        assert!(users.has_host_keys().unwrap());
        write("rsa", b"");
        assert!(!users.has_host_keys().unwrap());
    }
}
