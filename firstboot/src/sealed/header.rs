//! The header of a LUKS2 volume, as far as firstboot reads it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

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
    let ours = tokens.filter(|(_, token)| token["type"] == "systemd-tpm2");
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
            "1": {"type": "systemd-recovery"}}}"#;
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
