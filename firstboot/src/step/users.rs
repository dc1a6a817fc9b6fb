//! Users who may log in, and the SSH server, which runs only if a user has a key.

use std::fmt;

use anyhow::{Context, Result};

use super::Step;
use crate::report::Reporter;
use crate::system::files::{Attributes, Root};
use crate::system::{accounts, command, systemd};
use userdata::cloud_config::User as Account;

/// Keys lie here and not in home directories: root's is on the read-only root.
const KEYS: &str = "/etc/ssh/authorized_keys.d";
const SSHD_CONFIG: &str = "/etc/ssh/sshd_config.d/10-firstlight.conf";
const SSHD_TEXT: &str = "# Written by firstboot: keys of the document.\n\
    AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/authorized_keys.d/%u\n";
const SSH_UNIT: &str = "ssh.service";

#[derive(Debug)]
pub struct Users {
    pub root: Root,
    pub users: Vec<Account>,
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.users.iter().map(|user| user.name.as_str()).collect();
        write!(f, "create users and SSH keys: {}", names.join(", "))
    }
}

impl Step for Users {
    fn name(&self) -> &'static str {
        "users"
    }

    fn is_done(&self) -> Result<bool> {
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
        Ok(!self.has_keys() || systemd::is_enabled(SSH_UNIT)? && systemd::is_active(SSH_UNIT)?)
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        if self.root.is_machine() {
            for user in &self.users {
                if accounts::user(&self.root, &user.name)?.is_none() {
                    command::run("useradd", &useradd(user))
                        .with_context(|| format!("making user `{}`", user.name))?;
                }
            }
        }
        for (path, text, mode) in self.files() {
            self.root
                .write(&path, text.as_bytes(), Attributes::mode(mode))?;
        }
        if self.root.is_machine() && self.has_keys() {
            // Makes those that are missing; an image has none, or all its machines would be one to a client.
            command::run("ssh-keygen", &["-A"]).context("making the machine's SSH keys")?;
            systemd::enable(SSH_UNIT)?;
        }
        Ok(())
    }
}

impl Users {
    fn has_keys(&self) -> bool {
        self.users
            .iter()
            .any(|user| !user.ssh_authorized_keys.is_empty())
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
        if self.has_keys() {
            files.push((SSHD_CONFIG.to_owned(), SSHD_TEXT.to_owned(), 0o644));
        }
        files
    }
}

fn useradd(user: &Account) -> Vec<String> {
    // Home directories are in the state partition: /home is on the read-only root.
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
