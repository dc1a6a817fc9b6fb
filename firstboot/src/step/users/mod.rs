//! Users and groups, and the SSH server, which is enabled only if some user has a key.
//!
//! The image ships `ssh.service` disabled and has no host keys, or all its machines would look like
//! one to a client. Both are created in /etc, which the state partition keeps. Accounts, keys and
//! sudo rules are made once; a person may change them.

mod account;
mod host_keys;
mod password;
#[cfg(test)]
mod tests;

use std::fmt;

use anyhow::{Context, Result, bail};

use super::Step;
use super::files;
use super::ssh::SSH_UNIT;
use crate::applied::{Applied, digest};
use crate::report::Reporter;
use crate::system::files::{Attributes, DesiredFile, Root};
use crate::system::{accounts, command, systemd};
use userdata::cloud_config::{Group, HostKey, Passwords, User as Account};
use userdata::document::is_locked_key;

/// Not in home directories, so that a later document replaces them.
const KEYS: &str = "/etc/ssh/authorized_keys.d";
const SUDO: &str = "/etc/sudoers.d/90-firstlight-";
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
    pub groups: Vec<Group>,
    /// Of `chpasswd`.
    pub passwords: Passwords,
    /// Whether sshd takes passwords.
    pub ssh_passwords: bool,
    /// `ssh_keys`; empty: the host makes its own.
    pub host_keys: Vec<HostKey>,
    pub instance: String,
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users: Vec<_> = self.users.iter().map(|user| user.name.as_str()).collect();
        let groups: Vec<_> = self.groups.iter().map(|one| one.name.as_str()).collect();
        match (users.is_empty(), groups.is_empty()) {
            (true, true) if self.wants_ssh() || !self.passwords.users.is_empty() => {
                f.write_str("set passwords")
            }
            (true, true) => f.write_str("disable SSH and remove its keys"),
            (true, false) => write!(f, "create groups: {}", groups.join(", ")),
            (false, true) => write!(f, "create users and SSH keys: {}", users.join(", ")),
            (false, false) => write!(
                f,
                "create groups: {}; users and SSH keys: {}",
                groups.join(", "),
                users.join(", ")
            ),
        }
    }
}

impl Step for Users {
    fn name(&self) -> &'static str {
        "users"
    }

    fn is_done(&self) -> Result<bool> {
        let record = self.record()?;
        if !self.stale(&record).is_empty() || self.is_ssh_stale() {
            return Ok(false);
        }
        if !self.changes(&record).is_empty() || !self.is_sshd_configured()? {
            return Ok(false);
        }
        if !self.root.is_machine() {
            return Ok(true);
        }
        let made = account::are_made(&record, &self.users, &self.groups)
            && password::are_set(&record, &self.users, &self.passwords);
        Ok(made && (!self.wants_ssh() || self.has_host_keys()? && systemd::is_enabled(SSH_UNIT)?))
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let mut record = self.record()?;
        if self.root.is_machine() {
            let (root, users) = (&self.root, &self.users);
            account::make(root, &mut record, users, &self.groups)?;
            let is_new = account::is_new;
            password::set(root, &mut record, users, &self.passwords, is_new, report)?;
        }
        for path in self.stale(&record) {
            self.root.remove(&path)?;
            record.forget(&path);
            log::info!("removed `{path}`");
        }
        if self.is_ssh_stale() {
            if self.root.is_machine() {
                systemd::disable(SSH_UNIT)?;
                systemd::stop(SSH_UNIT)?;
            }
            // Last, so that an interrupted try is repeated.
            self.root.remove(SSHD_CONFIG)?;
        }
        let changes = self.changes(&record);
        self.root.write_all(&changes)?;
        for file in &changes {
            let path = file.path.to_string_lossy();
            record.set(&path, parts(file));
        }
        record.save_or_tell(report);
        if self.wants_ssh() {
            let mode = Attributes::mode(0o644);
            self.root
                .write(SSHD_CONFIG, self.sshd_text().as_bytes(), mode)?;
        }
        if self.root.is_machine() && self.wants_ssh() {
            if host_keys::kinds(&self.host_keys).is_empty() {
                // Creates the missing ones and replaces empty ones. It does not sync: a power cut
                // could leave an enabled server without keys.
                command::run("ssh-keygen", &["-A"]).context("creating the SSH host keys")?;
            } else {
                host_keys::complete(&self.root, &self.host_keys)?;
            }
            self.root.sync(SSH)?;
            systemd::enable(SSH_UNIT)?;
        }
        Ok(())
    }
}

impl Users {
    /// Refuses a document whose users cannot be made, before the first change.
    pub fn check(&self) -> Result<()> {
        let (root, users) = (&self.root, &self.users);
        let record = self.record()?;
        password::check(root, users, &self.passwords)?;
        let made = made_groups(users, &self.groups);
        for (i, user) in users.iter().enumerate() {
            let name = &user.name;
            // What is there is not made, and what was made may be gone since.
            if account::is_user_made(&record, user) || accounts::user(root, name)?.is_some() {
                continue;
            }
            for group in account::groups_of(user) {
                // A directory of `--root` need not hold the table.
                if root.exists("/etc/group")
                    && !made.iter().any(|name| name == group)
                    && accounts::group(root, group)?.is_none()
                {
                    bail!(
                        "users: group `{group}` of user `{name}` does not exist, and `create_groups` \
                         is false"
                    );
                }
            }
            if let Some(uid) = user.uid {
                let mut others = users[..i].iter();
                let other = others.find(|other| other.uid == Some(uid));
                let other = other.map(|other| other.name.clone());
                if let Some(other) = other.or(accounts::name(root, uid)?) {
                    bail!("users: the uid {uid} of user `{name}` is that of user `{other}`");
                }
            }
            if let Some(home) = &user.homedir
                && !user.no_create_home
                && files::is_of_image(root, home)
            {
                bail!("users: the home `{home}` of user `{name}` is on the read-only image");
            }
        }
        Ok(())
    }

    fn record(&self) -> Result<Applied> {
        Applied::open(&self.root, &self.instance)
    }

    /// Files of an earlier document that this one does not have. Files of others stay.
    fn stale(&self, record: &Applied) -> Vec<String> {
        let wanted = self.files();
        let ours = record
            .keys()
            .filter(|key| key.starts_with(&format!("{KEYS}/")) || key.starts_with(SUDO));
        let stale = ours.filter(|key| !wanted.iter().any(|file| file.path.as_os_str() == *key));
        stale.map(str::to_owned).collect()
    }

    /// The files that are not written yet.
    fn changes(&self, record: &Applied) -> Vec<DesiredFile> {
        let mut files = self.files();
        files.retain(|file| !record.has(&file.path.to_string_lossy(), &parts(file)));
        files
    }

    /// Whether an earlier document enabled SSH and this one has no keys.
    fn is_ssh_stale(&self) -> bool {
        !self.wants_ssh() && self.root.exists(SSHD_CONFIG)
    }

    fn is_sshd_configured(&self) -> Result<bool> {
        let mode = Attributes::mode(0o644);
        let text = self.sshd_text();
        Ok(!self.wants_ssh() || self.root.holds(SSHD_CONFIG, text.as_bytes(), mode)?)
    }

    fn sshd_text(&self) -> String {
        let passwords = if self.ssh_passwords { "yes" } else { "no" };
        let keys = host_keys::configuration(&self.host_keys);
        format!("{SSHD_TEXT}PasswordAuthentication {passwords}\n{keys}")
    }

    fn wants_ssh(&self) -> bool {
        wants_ssh(&self.users, self.ssh_passwords)
    }

    /// Whether every host key is there. A power cut may have left an empty file.
    fn has_host_keys(&self) -> Result<bool> {
        let given = host_keys::kinds(&self.host_keys);
        let kinds = HOST_KEY_TYPES.into_iter();
        for kind in kinds.filter(|kind| given.is_empty() || given.contains(kind)) {
            let key = self.root.read(format!("{SSH}/ssh_host_{kind}_key"))?;
            if key.unwrap_or_default().is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Keys and sudo rules.
    fn files(&self) -> Vec<DesiredFile> {
        let mut files = Vec::new();
        let mut add = |path: String, text: String, mode: u32| {
            files.push(DesiredFile {
                path: path.into(),
                bytes: text.into_bytes(),
                attributes: Attributes::mode(mode),
            });
        };
        if self.wants_ssh() {
            for (path, text, mode) in host_keys::files(&self.host_keys) {
                add(path, text, mode);
            }
        }
        for user in &self.users {
            if !user.ssh_authorized_keys.is_empty() {
                let text = user.ssh_authorized_keys.join("\n") + "\n";
                // sshd reads them as the user who logs in.
                add(format!("{KEYS}/{}", user.name), text, 0o644);
            }
            if !user.sudo.is_empty() {
                let rules = user.sudo.iter();
                let lines = rules.map(|rule| format!("{} {rule}\n", user.name));
                let path = format!("{SUDO}{}", user.name.replace('.', "_"));
                add(path, lines.collect(), 0o440);
            }
        }
        files
    }
}

fn parts(file: &DesiredFile) -> Vec<String> {
    vec![digest([file.bytes.as_slice()])]
}

/// Whether anybody can log in over SSH.
pub fn wants_ssh(users: &[Account], passwords: bool) -> bool {
    passwords || have_keys(users)
}

/// Whether a key lets a user in.
fn have_keys(users: &[Account]) -> bool {
    users
        .iter()
        .flat_map(|user| &user.ssh_authorized_keys)
        .any(|key| !is_locked_key(key))
}

/// The groups that the document makes: named ones, and one for each user.
pub fn made_groups(users: &[Account], groups: &[Group]) -> Vec<String> {
    let mut names: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
    for user in users {
        names.push(user.name.clone());
        if user.create_groups {
            names.extend(account::groups_of(user).map(str::to_owned));
        }
    }
    names
}
