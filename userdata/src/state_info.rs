//! The state file: how an image keeps the state partition.

use serde::{Deserialize, Serialize};

/// `/usr/share/firstlight/state.json`; an image whose state is not encrypted has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateInfo {
    pub encrypt: Encryption,
    /// Whether the kernel image is signed for Secure Boot. Then the state is sealed only with Secure
    /// Boot on, and opens only with it.
    pub secure_boot: bool,
}

/// How the state partition is encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    #[default]
    None,
    /// LUKS2, whose key the machine's TPM seals to the signed policy of the kernel image.
    Tpm2,
}

impl StateInfo {
    /// The registers whose values the key is sealed to, besides the signed register 11; as
    /// `--tpm2-pcrs=` of systemd. 7 has the state and keys of Secure Boot. 12 has kernel arguments
    /// and credentials from outside the kernel image, and zeros without any.
    ///
    /// Without Secure Boot another kernel could extend the same values, so that they would protect
    /// nothing and a change of the firmware's settings would close the state.
    pub fn registers(&self) -> String {
        match self.secure_boot {
            true => format!("7:sha256+12:sha256={}", "0".repeat(64)),
            false => String::new(),
        }
    }
}
