//! The header of a LUKS2 volume, as far as firstboot reads it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use userdata::contract::POLICY_KEY;
use userdata::state_info::StateInfo;

use crate::system::files::Root;

/// The register that the signature of the kernel image's policy covers.
pub(super) const SIGNED: u64 = 11;
const MAGIC: &[u8] = b"LUKS\xba\xbe\x00\x02";
/// Where the JSON begins, behind the binary header.
const JSON: u64 = 4096;
/// The largest size of both that LUKS2 has.
const MAX_SIZE: u64 = 4 << 20;

/// What a TPM needs to open the volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Binding {
    /// The public key of the policy in PEM; empty if it is bound to no policy.
    pub policy_key: Vec<u8>,
    /// The registers that a signature of the policy covers.
    pub signed: Vec<u64>,
    /// The registers whose values are fixed.
    pub fixed: Vec<u64>,
}

/// Fails unless every binding of the volume on `partition` demands what `info` says: systemd seals
/// to a weaker policy where it does not find a key, and only logs that at debug level.
pub(super) fn ensure_sealed(root: &Root, partition: &Path, info: &StateInfo) -> Result<()> {
    let policy = root.read(POLICY_KEY)?.unwrap_or_default();
    let bindings = read(partition)?.unwrap_or_default();
    ensure!(
        are_sealed(&bindings, &policy, info),
        "systemd did not seal `{}` to the policy of the kernel image; this is a bug",
        partition.display()
    );
    Ok(())
}

fn are_sealed(bindings: &[Binding], policy: &[u8], info: &StateInfo) -> bool {
    let fixed: &[u64] = if info.secure_boot { &[7, 12] } else { &[] };
    let is_sealed = |binding: &Binding| {
        binding.signed == [SIGNED]
            && binding.policy_key.trim_ascii() == policy.trim_ascii()
            && binding.fixed == fixed
    };
    !bindings.is_empty() && bindings.iter().all(is_sealed)
}

/// The bindings of the volume on `device`; `None` if it is not LUKS2.
pub fn read(device: &Path) -> Result<Option<Vec<Binding>>> {
    let doing = || format!("reading `{}`", device.display());
    let mut file = File::open(device).with_context(doing)?;
    let mut start = [0; 16];
    if file.read_exact(&mut start).is_err() || !start.starts_with(MAGIC) {
        return Ok(None);
    }
    let mut size = [0; 8];
    size.copy_from_slice(&start[8..]);
    let size = u64::from_be_bytes(size);
    ensure!(
        (JSON..=MAX_SIZE).contains(&size),
        "the LUKS2 header on `{}` is damaged",
        device.display()
    );
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(JSON)).with_context(doing)?;
    file.take(size - JSON)
        .read_to_end(&mut text)
        .with_context(doing)?;
    // The rest is zeros.
    let end = text.iter().position(|byte| *byte == 0);
    let header: Value = serde_json::from_slice(&text[..end.unwrap_or(text.len())])
        .with_context(|| format!("reading the LUKS2 header on `{}`", device.display()))?;
    Ok(Some(bindings(&header)))
}

/// The fields that systemd's tokens have.
fn bindings(header: &Value) -> Vec<Binding> {
    let tokens = header["tokens"].as_object().into_iter().flatten();
    // A power cut while one is removed may leave a token without its key, which opens nothing.
    let has_key = |token: &Value| {
        token["keyslots"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    };
    let ours = tokens.filter(|(_, token)| token["type"] == "systemd-tpm2" && has_key(token));
    let numbers = |value: &Value| {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(Value::as_u64).collect()
    };
    ours.map(|(_, token)| Binding {
        policy_key: token["tpm2_pubkey"]
            .as_str()
            .and_then(|text| STANDARD.decode(text).ok())
            .unwrap_or_default(),
        signed: numbers(&token["tpm2_pubkey_pcrs"]),
        fixed: numbers(&token["tpm2-pcrs"]),
    })
    .collect()
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "a test arranges files as it likes"
)]
mod tests {
    use super::*;

    fn volume(json: &str) -> Vec<u8> {
        let mut bytes = vec![0; 16 << 10];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&(16u64 << 10).to_be_bytes());
        bytes[4096..4096 + json.len()].copy_from_slice(json.as_bytes());
        bytes
    }

    #[test]
    fn binding_is_read_from_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("volume");
        let json = r#"{"tokens": {"0": {"type": "systemd-tpm2", "keyslots": ["1"],
            "tpm2-pcrs": [7, 12], "tpm2_pubkey_pcrs": [11], "tpm2_pubkey": "a2V5"},
            "1": {"type": "systemd-recovery", "keyslots": ["2"]},
            "2": {"type": "systemd-tpm2", "keyslots": [], "tpm2-pcrs": [7]}}}"#;
        std::fs::write(&path, volume(json)).unwrap();
        let expected = Binding {
            policy_key: b"key".to_vec(),
            signed: vec![11],
            fixed: vec![7, 12],
        };
        assert_eq!(read(&path).unwrap(), Some(vec![expected]));
        std::fs::write(&path, volume("{}")).unwrap();
        assert_eq!(read(&path).unwrap(), Some(Vec::new()));
    }

    #[test]
    fn weaker_binding_is_not_sealed() {
        let info = |secure_boot| StateInfo {
            secure_boot,
            ..StateInfo::default()
        };
        let full = Binding {
            policy_key: b"key\n".to_vec(),
            signed: vec![SIGNED],
            fixed: vec![7, 12],
        };
        let are_sealed = |bindings: &[Binding], signed| are_sealed(bindings, b"key", &info(signed));
        assert!(are_sealed(std::slice::from_ref(&full), true));
        assert!(!are_sealed(&[], true));
        let mut weaker = vec![full.clone(); 3];
        weaker[0].policy_key.clear();
        weaker[1].signed.clear();
        weaker[2].fixed.pop();
        for one in weaker {
            assert!(!are_sealed(&[full.clone(), one], true));
        }
        // Without Secure Boot no register is fixed.
        assert!(!are_sealed(std::slice::from_ref(&full), false));
    }

    #[test]
    fn other_volumes_have_no_header_and_damaged_ones_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("volume");
        for other in [&[0; 8192][..], b"short"] {
            std::fs::write(&path, other).unwrap();
            assert_eq!(read(&path).unwrap(), None);
        }
        let mut damaged = volume("{");
        std::fs::write(&path, &damaged).unwrap();
        assert!(read(&path).is_err());
        damaged[8..16].copy_from_slice(&u64::MAX.to_be_bytes());
        std::fs::write(&path, &damaged).unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("damaged"));
    }
}
