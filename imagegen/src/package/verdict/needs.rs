//! What the base of kubeadm's configuration needs on our nodes whatever the topology, and what no
//! node of ours can do.

use semver::Version;
use serde_json::{Map, Value, json};

use super::Verdict;
use super::base::{Base, CLUSTER, KUBELET};

/// Where kubelet and kube-controller-manager look for FlexVolume plugins: a folder that can be
/// written to, whatever the release.
const FLEX_VOLUMES: &str = "/var/lib/kubelet/volume-plugins";
/// Their default, which pod networks mount. The image has it writable, on top of the verified root.
const DEFAULT_FLEX_VOLUMES: &str = "/usr/libexec/kubernetes/";

/// Completes `documents`, the values of `base`; returns what was changed. `mounts_default` tells
/// whether a manifest mounts the default folder of FlexVolume plugins.
pub(super) fn complete(
    base: &Base,
    documents: &mut Vec<Value>,
    version: Option<&Version>,
    mounts_default: bool,
    verdict: &mut Verdict,
) -> Vec<String> {
    impossible(base, verdict);
    let mut changes = Vec::new();
    flex_volumes(
        base,
        documents,
        version,
        mounts_default,
        &mut changes,
        verdict,
    );
    images_stay(base, documents, &mut changes);
    changes
}

/// Settings that contradict what firstboot does on every node.
fn impossible(base: &Base, verdict: &mut Verdict) {
    if let Some(place) = base.place(CLUSTER, &["etcd", "external"]) {
        verdict.errors.push(format!(
            "{place}: `etcd.external`: nodes run etcd on their masters; remove it"
        ));
    }
    for (kind, path, only, why) in [
        (
            CLUSTER,
            &["certificatesDir"][..],
            "/etc/kubernetes/pki",
            "the documents bring the certificates there",
        ),
        (
            CLUSTER,
            &["etcd", "local", "dataDir"],
            "/var/lib/etcd",
            "firstboot keeps the member of each master there",
        ),
        (
            CLUSTER,
            &["networking", "dnsDomain"],
            "cluster.local",
            "the certificates have names of this domain",
        ),
        (
            KUBELET,
            &["clusterDomain"],
            "cluster.local",
            "the certificates have names of this domain",
        ),
        (
            KUBELET,
            &["staticPodPath"],
            "/etc/kubernetes/manifests",
            "kubeadm writes the control plane there",
        ),
    ] {
        let own = base.setting(kind, path);
        if let Some(own) = own.filter(|own| !own.value.is_empty() && own.value != only) {
            verdict.errors.push(format!(
                "{}: `{}` is `{}`, and {why}; write `{only}`, or remove it",
                own.place,
                path.join("."),
                own.value
            ));
        }
    }
}

/// kubeadm before 1.36 mounts this folder from the host and makes it if it is missing, which fails
/// below a read-only `/usr`.
fn flex_volumes(
    base: &Base,
    documents: &mut Vec<Value>,
    version: Option<&Version>,
    mounts_default: bool,
    changes: &mut Vec<String>,
    verdict: &mut Verdict,
) {
    const FLAG: &str = "flex-volume-plugin-dir";
    let flag = base.flag("controllerManager", FLAG);
    let field = base.setting(KUBELET, &["volumePluginDir"]);
    let filled =
        |own: &Option<super::conf::Setting>| own.clone().filter(|own| !own.value.is_empty());
    let (flag, field) = (filled(&flag), filled(&field));
    if let (Some(flag), Some(field)) = (&flag, &field)
        && flag.value.trim_end_matches('/') != field.value.trim_end_matches('/')
    {
        verdict.errors.push(format!(
            "{}: kube-controller-manager's {FLAG} is `{}`, and the kubelet's volumePluginDir at \
             {} is `{}`; write the same",
            flag.place, flag.value, field.place, field.value
        ));
        return;
    }
    let writable = |path: &str| {
        path.starts_with(DEFAULT_FLEX_VOLUMES)
            || ["/var/", "/etc/", "/opt/"]
                .iter()
                .any(|top| path.starts_with(top))
    };
    let old = version.is_none_or(|version| version.minor < 36);
    let one_lacks = field.is_none() || flag.is_none() && old;
    let given = flag.or(field);
    let folder = match &given {
        Some(own) if writable(&own.value) => {
            if one_lacks {
                changes.push(format!(
                    "{}: kubelet and kube-controller-manager both look for FlexVolume plugins in \
                     `{}`",
                    own.place, own.value
                ));
            }
            own.value.clone()
        }
        Some(own) => {
            changes.push(format!(
                "{}: FlexVolume plugins are in {FLEX_VOLUMES}: `{}` is read-only",
                own.place, own.value
            ));
            FLEX_VOLUMES.to_owned()
        }
        // A manifest looks for it there, and there it can be written to.
        None if mounts_default => return,
        None => {
            changes.push(format!("FlexVolume plugins are in {FLEX_VOLUMES}"));
            FLEX_VOLUMES.to_owned()
        }
    };
    if let Some(kubelet) = document(documents, KUBELET, "kubelet.config.k8s.io/v1beta1") {
        kubelet.insert("volumePluginDir".to_owned(), folder.as_str().into());
    }
    if !old {
        return;
    }
    let Some(cluster) = document(documents, CLUSTER, "kubeadm.k8s.io/v1beta2") else {
        return;
    };
    let section = cluster
        .entry("controllerManager")
        .or_insert_with(|| json!({}));
    if section.is_null() {
        *section = json!({});
    }
    match &mut section["extraArgs"] {
        Value::Array(list) => {
            list.retain(|item| item["name"] != FLAG);
            list.push(json!({ "name": FLAG, "value": folder }));
        }
        Value::Object(map) => drop(map.insert(FLAG.to_owned(), folder.into())),
        // firstboot gives it the shape of the release.
        other => *other = json!({ FLAG: folder }),
    }
}

/// The kubelet removes unused images from a full disk, and no registry brings them back.
fn images_stay(base: &Base, documents: &mut Vec<Value>, changes: &mut Vec<String>) {
    const KEY: &str = "imageGCHighThresholdPercent";
    let own = base.setting(KUBELET, &[KEY]);
    if own.as_ref().is_some_and(|own| own.value == "100") {
        return;
    }
    let place = own
        .map(|own| format!("{}: ", own.place))
        .unwrap_or_default();
    changes.push(format!(
        "{place}{KEY} is 100: an image that the kubelet removes is gone, without a registry"
    ));
    if let Some(kubelet) = document(documents, KUBELET, "kubelet.config.k8s.io/v1beta1") {
        kubelet.insert(KEY.to_owned(), 100.into());
    }
}

/// The document of a kind, made if there is none.
fn document<'a>(
    documents: &'a mut Vec<Value>,
    kind: &str,
    version: &str,
) -> Option<&'a mut Map<String, Value>> {
    if documents.iter().all(|document| document["kind"] != kind) {
        documents.push(json!({ "apiVersion": version, "kind": kind }));
    }
    let found = documents
        .iter_mut()
        .find(|document| document["kind"] == kind);
    found.and_then(Value::as_object_mut)
}
