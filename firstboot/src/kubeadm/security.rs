//! What the documents bring for the control plane's security: the key of Secrets, and kubelets'
//! serving certificates. The package's base and the topology may say otherwise.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use userdata::contract::{ENCRYPTION_DIR, ENCRYPTION_FILE, KUBELET_CERTIFICATE, KUBELET_KEY};
use userdata::node_config::Security;

use super::documents::{Api, default_arguments};
use super::paths::CA_CERTIFICATE;

const ENCRYPTION_FLAG: &str = "encryption-provider-config";

/// kubeadm's `apiServer` section. Its flags reach every master through the cluster's
/// configuration.
pub(super) fn apiserver(
    section: &mut Map<String, Value>,
    security: Security,
    api: Api,
) -> Result<()> {
    let mut flags = BTreeMap::new();
    if security.kubelet_certificates {
        flags.insert(
            "kubelet-certificate-authority".to_owned(),
            CA_CERTIFICATE.to_owned(),
        );
    }
    let encrypts = security.encrypted_secrets && !has_flag(section, ENCRYPTION_FLAG);
    if encrypts {
        flags.insert(ENCRYPTION_FLAG.to_owned(), ENCRYPTION_FILE.to_owned());
        // The folder: a mount of the file would keep its old contents after a change.
        let volume = json!({
            "name": "firstlight-encryption",
            "hostPath": ENCRYPTION_DIR,
            "mountPath": ENCRYPTION_DIR,
            "readOnly": true,
            "pathType": "Directory",
        });
        let volumes = section.entry("extraVolumes").or_insert_with(|| json!([]));
        if volumes.is_null() {
            *volumes = json!([]);
        }
        match volumes.as_array_mut() {
            Some(volumes) => volumes.push(volume),
            None => bail!("`extraVolumes` in `kubeadm.yaml` is not a list"),
        }
    }
    default_arguments(section, "extraArgs", flags, api)
}

fn has_flag(section: &Map<String, Value>, flag: &str) -> bool {
    match section.get("extraArgs") {
        Some(Value::Object(map)) => map.contains_key(flag),
        Some(Value::Array(list)) => list.iter().any(|entry| entry["name"] == flag),
        _ => false,
    }
}

/// kubelet's configuration, which is the same on every host.
pub(super) fn kubelet(document: &mut Map<String, Value>, security: Security) {
    if !security.kubelet_certificates || document.contains_key("serverTLSBootstrap") {
        return;
    }
    for (key, path) in [
        ("tlsCertFile", KUBELET_CERTIFICATE),
        ("tlsPrivateKeyFile", KUBELET_KEY),
    ] {
        document.entry(key).or_insert_with(|| path.into());
    }
}
