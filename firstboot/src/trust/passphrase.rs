//! Opens a document that imagegen has encrypted with a passphrase of its host.
//!
//! The first boot needs the passphrase from a person or from the hypervisor. The record of the
//! document keeps it, beside the document itself, so that no later boot asks: it opens the next
//! documents of this host too.

use std::fmt;

use age_file::{Error, MAX_WORK_FACTOR, Sealed, WORK_FACTOR, is_sealed};
use anyhow::{Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use userdata::document::MetaData;
use userdata::secret::Secret;

use super::record::Record;
use crate::report::Reporter;
use crate::source::Seed;
use crate::status::Wait;
use crate::system::command;
use crate::system::credentials;
use crate::system::files::Root;
use crate::system::systemd;

/// From SMBIOS or fw_cfg.
pub const CREDENTIAL: &str = "firstlight.document-passphrase";

/// A login on a console keeps the terminal that the passphrase is typed on.
const CONSOLES: &str = "/sys/class/tty/console/active";
const LOGINS: &str = "getty.target";

/// The passphrase of a document, and the file that it opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    passphrase: Secret<String>,
    /// SHA-256 of the encrypted `user-data`.
    digest: String,
}

/// A document that can be read.
#[derive(Debug)]
pub struct Opened {
    pub seed: Seed,
    /// `None` if it was not encrypted.
    pub lock: Option<Lock>,
}

/// The question could not be put to a person. It can be later.
#[derive(Debug)]
pub struct Unasked(String);

impl fmt::Display for Unasked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unasked {}

/// Opens `seed` with the credential, without asking anyone.
pub fn open_quietly(root: &Root, seed: &Seed) -> Result<Opened> {
    if !is_sealed(&seed.user_data) {
        return Ok(plain(seed));
    }
    let file = read(seed, MAX_WORK_FACTOR)?;
    let given = credential(root);
    match given
        .as_ref()
        .map(|one| open(&file, seed, one))
        .transpose()?
    {
        Some(Some(opened)) => Ok(opened),
        answer => bail!(
            "{}/user-data is encrypted, and {}; give the passphrase of this host, which imagegen \
             keeps in `pki/passphrases/NAME.key`",
            seed.origin,
            problem(answer.is_some())
        ),
    }
}

/// Opens the first document of a machine: with the credential, else with what a person types.
pub fn open_first(root: &Root, seed: &Seed, report: &mut Reporter) -> Result<Opened> {
    if !root.is_machine() || !is_sealed(&seed.user_data) {
        return open_quietly(root, seed);
    }
    let file = read(seed, MAX_WORK_FACTOR)?;
    let given = credential(root);
    if let Some(passphrase) = &given
        && let Some(opened) = open(&file, seed, passphrase)?
    {
        return Ok(opened);
    }
    let host = name(seed);
    let found = format!(
        "{}/user-data is encrypted, and {}",
        seed.origin,
        problem(given.is_some())
    );
    report.passphrase_awaited(vec![found.clone()]);
    let logins = logins(root);
    switch_off(&logins);
    let opened = ask_until_open(&file, seed, &host, &found, report);
    if !logins.is_empty()
        && let Err(error) = systemd::start(LOGINS)
    {
        log::warn!("{error:#}");
    }
    report.passphrase_found();
    opened
}

fn ask_until_open(
    file: &Sealed,
    seed: &Seed,
    host: &str,
    found: &str,
    report: &mut Reporter,
) -> Result<Opened> {
    let mut wait = Wait::begin();
    let endpoint = format!("the passphrase of {host}");
    report.waiting(&endpoint, found, &wait);
    let mut wrong = 0_u32;
    loop {
        let passphrase = ask(host)?;
        if let Some(opened) = open(file, seed, &passphrase)? {
            return Ok(opened);
        }
        // The wait begins with the first try.
        if wrong > 0 {
            wait.count_try();
        }
        wrong += 1;
        let answer = format!("what was typed does not open the document ({wrong} wrong)");
        report.waiting(&endpoint, &answer, &wait);
    }
}

/// Opens a document of a machine that has one: with its passphrase or the credential. Costs no more
/// than a document of imagegen, because any disk may have one.
pub fn open_later(root: &Root, kept: &Record, seed: &Seed) -> Result<Opened> {
    if !is_sealed(&seed.user_data) {
        return Ok(plain(seed));
    }
    if let Some(lock) = &kept.lock
        && lock.digest == digest(seed)
    {
        return Ok(Opened {
            seed: Seed {
                user_data: kept.seed().user_data,
                ..seed.clone()
            },
            lock: Some(lock.clone()),
        });
    }
    let file = read(seed, WORK_FACTOR)?;
    let known = kept.lock.as_ref().map(|lock| lock.passphrase.clone());
    for passphrase in known.into_iter().chain(credential(root)) {
        if let Some(opened) = open(&file, seed, &passphrase)? {
            return Ok(opened);
        }
    }
    bail!(
        "{}/user-data is encrypted with a passphrase that this machine does not know; give it as \
         the credential `{CREDENTIAL}`, or run `firstboot reset`, after which the next boot asks \
         for it",
        seed.origin
    )
}

fn plain(seed: &Seed) -> Opened {
    Opened {
        seed: seed.clone(),
        lock: None,
    }
}

fn read(seed: &Seed, most: u8) -> Result<Sealed> {
    Sealed::read(&seed.user_data, most).map_err(|error| unusable(seed, &error))
}

/// `None`: the passphrase is another one.
fn open(file: &Sealed, seed: &Seed, passphrase: &Secret<String>) -> Result<Option<Opened>> {
    let user_data = match file.open(passphrase.expose()) {
        Ok(user_data) => user_data,
        Err(Error::WrongPassphrase) => return Ok(None),
        Err(error) => return Err(unusable(seed, &error)),
    };
    Ok(Some(Opened {
        seed: Seed {
            user_data,
            ..seed.clone()
        },
        lock: Some(Lock {
            passphrase: passphrase.clone(),
            digest: digest(seed),
        }),
    }))
}

fn unusable(seed: &Seed, error: &Error) -> anyhow::Error {
    anyhow!("{}/user-data: {error}", seed.origin)
}

fn problem(is_given: bool) -> String {
    match is_given {
        true => format!("the credential `{CREDENTIAL}` does not open it"),
        false => format!("no credential is called `{CREDENTIAL}`"),
    }
}

fn digest(seed: &Seed) -> String {
    let digest = Sha256::digest(&seed.user_data);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn credential(root: &Root) -> Option<Secret<String>> {
    let bytes = credentials::read(root, CREDENTIAL)?;
    Some(secret(&String::from_utf8_lossy(&bytes)))
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.trim_ascii().to_owned())
}

/// The host as `meta-data` names it, which is not encrypted.
fn name(seed: &Seed) -> String {
    let parsed = MetaData::parse("meta-data", &seed.meta_data).ok();
    let name = parsed.and_then(|(meta_data, _)| meta_data.local_hostname);
    name.unwrap_or_else(|| "this host".to_owned())
}

fn ask(host: &str) -> Result<Secret<String>> {
    let question = format!("Passphrase of the document of {host}:");
    let arguments = ["--timeout=0", "--id=firstlight-document", &question];
    let answer = command::answer("systemd-ask-password", &arguments);
    let answer =
        answer.map_err(|error| Unasked(format!("asking for the passphrase: {error:#}")))?;
    Ok(secret(&answer))
}

/// The login units of the consoles.
fn logins(root: &Root) -> Vec<String> {
    let active = root.read(CONSOLES).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&active);
    let unit = |name: &str| match name {
        // The screen that is shown.
        "tty0" => "getty@tty1.service".to_owned(),
        name if name.starts_with("tty") && name[3..].starts_with(|c: char| c.is_ascii_digit()) => {
            format!("getty@{name}.service")
        }
        name => format!("serial-getty@{name}.service"),
    };
    text.split_whitespace().map(unit).collect()
}

fn switch_off(logins: &[String]) {
    for unit in logins {
        if let Err(error) = systemd::stop(unit) {
            log::debug!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_of_every_console_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(logins(&root).is_empty());
        root.write_volatile(CONSOLES, b"tty0 tty2 ttyS0 hvc0\n")
            .unwrap();
        let units = [
            "getty@tty1.service",
            "getty@tty2.service",
            "serial-getty@ttyS0.service",
            "serial-getty@hvc0.service",
        ];
        assert_eq!(logins(&root), units);
    }
}
