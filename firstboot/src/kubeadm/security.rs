//! What the documents bring for the control plane's security: the key of Secrets, kubelets' serving
//! certificates, and the authorities of clients. The package's base and the topology may say
//! otherwise, except for the authorities of clients: a host would accept those that it must not.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use userdata::contract::{
    CLIENT_AUTHORITIES, CLIENT_SIGNER_CERTIFICATE, CLIENT_SIGNER_KEY, ENCRYPTION_DIR,
    ENCRYPTION_FILE, KUBELET_CERTIFICATE, KUBELET_KEY,
};
use userdata::node_config::Security;

use super::documents::{Api, arguments, default_arguments};
use super::paths::{CA_CERTIFICATE, CA_KEY};

const ENCRYPTION_FLAG: &str = "encryption-provider-config";

/// kubeadm's `apiServer` section. Its flags reach every master through the cluster's
/// configuration.
pub(super) fn apiserver(
    section: &mut Map<String, Value>,
    security: Security,
    api: Api,
) -> Result<()> {
    if security.client_authority {
        let flags = BTreeMap::from([("client-ca-file".to_owned(), CLIENT_AUTHORITIES.to_owned())]);
        arguments(section, "extraArgs", &flags, api)?;
    }
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

/// kubeadm's `controllerManager` section: certificates that the controller manager signs for clients
/// are of the authority that apiservers accept, all others of `ca`. It takes either one pair for
/// everything or one for each signer, so that kubeadm's own flags become empty. Flags for files of
/// the package or the topology stay as they are.
pub(super) fn controller_manager(
    section: &mut Map<String, Value>,
    security: Security,
    api: Api,
) -> Result<()> {
    let signs = |name: &str| name.starts_with("cluster-signing-") && name.ends_with("-file");
    if !security.client_authority || flags(section).any(signs) {
        return Ok(());
    }
    let clients = (CLIENT_SIGNER_CERTIFICATE, CLIENT_SIGNER_KEY);
    let cluster = (CA_CERTIFICATE, CA_KEY);
    let mut own = BTreeMap::new();
    for (signer, (certificate, key)) in [
        ("", ("", "")),
        ("kubelet-client-", clients),
        ("kube-apiserver-client-", clients),
        ("kubelet-serving-", cluster),
        ("legacy-unknown-", cluster),
    ] {
        let pair = [("cert", certificate), ("key", key)];
        own.extend(pair.map(|(kind, path)| {
            let name = format!("cluster-signing-{signer}{kind}-file");
            (name, path.to_owned())
        }));
    }
    arguments(section, "extraArgs", &own, api)
}

fn has_flag(section: &Map<String, Value>, flag: &str) -> bool {
    flags(section).any(|name| name == flag)
}

/// The names of the flags that the package or the topology sets.
fn flags(section: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let arguments = section.get("extraArgs");
    let map = arguments.and_then(Value::as_object);
    let list = arguments.and_then(Value::as_array);
    let listed = list.into_iter().flatten();
    let mapped = map.into_iter().flat_map(Map::keys).map(String::as_str);
    mapped.chain(listed.filter_map(|entry| entry["name"].as_str()))
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
