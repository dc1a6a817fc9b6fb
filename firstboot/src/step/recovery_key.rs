//! The recovery key of encrypted state.
//!
//! The state has it from its first boot on, and then loses the key with which it was made. Whether
//! that is done is asked of the volume: a power cut between any two changes leaves one of the keys.

use std::fmt;

use anyhow::{Context, Result, ensure};
use userdata::contract::RECOVERY_KEY;
use userdata::secret::Secret;

use super::Step;
use crate::host::Host;
use crate::report::Reporter;
use crate::sealed::{FIRST_KEY, PARTITION};
use crate::system::command;
use crate::system::files::Root;

/// A key of 256 random bits needs no slow derivation.
const DERIVATION: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];

#[derive(Debug)]
pub struct RecoveryKey {
    root: Root,
    key: Secret<Vec<u8>>,
    /// The encrypted partition.
    partition: String,
}

impl RecoveryKey {
    /// `None` for a machine without encrypted state, or a document without the key.
    pub fn find(root: &Root, host: &Host) -> Result<Option<Self>> {
        let Some(partition) = root.read(PARTITION)? else {
            return Ok(None);
        };
        let file = host.files.iter().find(|file| file.path == RECOVERY_KEY);
        let Some(file) = file else {
            log::warn!(
                "the document has no `{RECOVERY_KEY}`: only the TPM of this machine opens its state"
            );
            return Ok(None);
        };
        let key = file.content.expose().trim_ascii().to_vec();
        ensure!(!key.is_empty(), "write_files: `{RECOVERY_KEY}` is empty");
        Ok(Some(Self {
            root: root.clone(),
            key: Secret::new(key),
            partition: String::from_utf8_lossy(&partition).trim().to_owned(),
        }))
    }

    /// Whether the recovery key opens the state.
    fn opens(&self) -> bool {
        let arguments = [
            "open",
            "--batch-mode",
            "--test-passphrase",
            "--key-file=-",
            &self.partition,
        ];
        let opened = command::run_with_input("cryptsetup", &arguments, self.key.expose());
        if let Err(error) = &opened {
            log::debug!("{error:#}");
        }
        opened.is_ok()
    }
}

impl fmt::Display for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "enrol the recovery key of {}", self.partition)
    }
}

impl Step for RecoveryKey {
    fn name(&self) -> &'static str {
        "recovery-key"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(!self.root.exists(FIRST_KEY) && self.opens())
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        let first = self.root.join(FIRST_KEY).display().to_string();
        let has_first = self.root.exists(FIRST_KEY);
        if !self.opens() {
            ensure!(
                has_first,
                "the document's recovery key does not open {}, and the key that could enrol it is \
                 gone since another one was enrolled; put the host's first recovery key into its \
                 document",
                self.partition
            );
            let mut arguments = vec!["luksAddKey", "--batch-mode", "--key-file", &first];
            arguments.extend(DERIVATION);
            arguments.extend([self.partition.as_str(), "-"]);
            command::run_with_input("cryptsetup", &arguments, self.key.expose())
                .context("enrolling the recovery key")?;
            ensure!(
                self.opens(),
                "the recovery key does not open {} though it is enrolled",
                self.partition
            );
        }
        if has_first {
            // After a power cut the volume may have lost it already, and the file not.
            let arguments = ["luksRemoveKey", "--batch-mode", &self.partition, &first];
            let test = ["open", "--batch-mode", "--test-passphrase", "--key-file"];
            let test = [&test[..], &[&first, &self.partition]].concat();
            if command::run("cryptsetup", &test).is_ok() {
                command::run("cryptsetup", &arguments).context("removing the first key")?;
            }
            self.root.remove(FIRST_KEY)?;
        }
        Ok(())
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Seed;

    fn step(partition: Option<&str>, user_data: &str) -> Result<Option<RecoveryKey>> {
        let dir = tempfile::tempdir()?;
        let root = Root::new(dir.path());
        if let Some(partition) = partition {
            root.write_volatile(PARTITION, partition.as_bytes())?;
        }
        let seed = Seed {
            origin: "seed".to_owned(),
            user_data: user_data.as_bytes().to_vec(),
            meta_data: Vec::new(),
            network_config: None,
            vendor_data: None,
        };
        let (host, _) = crate::host::understand(&seed)?;
        RecoveryKey::find(&root, &host)
    }

    #[test]
    fn only_encrypted_state_with_a_key_in_the_document_has_the_step() {
        let document = |content: &str| {
            format!("#cloud-config\nwrite_files:\n- {{path: {RECOVERY_KEY}, content: {content}}}\n")
        };
        let with_key = document("\"abc\\n\"");
        assert!(step(None, &with_key).unwrap().is_none());
        let none = "#cloud-config\n{}\n";
        assert!(step(Some("/dev/vda5"), none).unwrap().is_none());
        let found = step(Some("/dev/vda5\n"), &with_key).unwrap().unwrap();
        assert_eq!(found.partition, "/dev/vda5");
        assert_eq!(found.key.expose(), b"abc");
        let empty = step(Some("/dev/vda5"), &document("\"\\n\"")).unwrap_err();
        assert!(empty.to_string().contains("is empty"), "{empty}");
    }
}
