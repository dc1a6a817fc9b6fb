//! What is wrong with a manifest whatever the cluster: leftovers of templates, versions of the API
//! that the release does not serve, namespaces that nothing makes, images that no node can have.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;
use serde_json::Value;

use super::reader::{Kind, Node};
use super::{Manifests, Object, definitions};

/// An image that an object's container names.
#[derive(Debug, Clone)]
pub(crate) struct ImageUse {
    pub(crate) image: String,
    /// `conf/net/calico.yaml:7:3: document 2, DaemonSet kube-system/calico-node: container `node``
    pub(crate) by: String,
    /// Whether kubelet asks a registry although the image is there.
    pub(crate) always: bool,
}

/// Namespaces that kubeadm makes.
const OWN: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Group and version, kinds (none: all), and the minor release that serves them no more
/// (Kubernetes' deprecated API migration guide).
const GONE: [(&str, &[&str], u64); 18] = [
    (
        "extensions/v1beta1",
        &[
            "Deployment",
            "DaemonSet",
            "ReplicaSet",
            "NetworkPolicy",
            "PodSecurityPolicy",
        ],
        16,
    ),
    ("apps/v1beta1", &[], 16),
    ("apps/v1beta2", &[], 16),
    ("extensions/v1beta1", &[], 22),
    ("networking.k8s.io/v1beta1", &[], 22),
    ("apiextensions.k8s.io/v1beta1", &[], 22),
    (
        "admissionregistration.k8s.io/v1beta1",
        &[
            "MutatingWebhookConfiguration",
            "ValidatingWebhookConfiguration",
        ],
        22,
    ),
    ("apiregistration.k8s.io/v1beta1", &[], 22),
    (
        "certificates.k8s.io/v1beta1",
        &["CertificateSigningRequest"],
        22,
    ),
    ("coordination.k8s.io/v1beta1", &["Lease"], 22),
    ("rbac.authorization.k8s.io/v1beta1", &[], 22),
    ("scheduling.k8s.io/v1beta1", &[], 22),
    (
        "storage.k8s.io/v1beta1",
        &["CSIDriver", "CSINode", "StorageClass", "VolumeAttachment"],
        22,
    ),
    ("batch/v1beta1", &["CronJob"], 25),
    ("discovery.k8s.io/v1beta1", &["EndpointSlice"], 25),
    (
        "policy/v1beta1",
        &["PodDisruptionBudget", "PodSecurityPolicy"],
        25,
    ),
    ("node.k8s.io/v1beta1", &["RuntimeClass"], 25),
    ("autoscaling/v2beta2", &["HorizontalPodAutoscaler"], 26),
];

pub(super) fn objects(found: &mut Manifests, kubernetes: Option<&Version>) {
    let objects = std::mem::take(&mut found.objects);
    let made: BTreeSet<&str> = objects
        .iter()
        .filter(|object| object.kind == "Namespace")
        .map(|object| object.name.as_str())
        .chain(OWN)
        .collect();
    let defined = definitions(&objects);
    let mut seen: BTreeMap<(String, String), String> = BTreeMap::new();
    for object in &objects {
        let at = |node: &Node| object.at(node.place);
        templates(object, found);
        if let Some(why) = not_a_name(object) {
            let node = object
                .node
                .at(&["metadata", "name"])
                .unwrap_or(&object.node);
            found
                .errors
                .push(format!("{}`metadata.name`: {why}", at(node)));
        }
        if let Some(namespace) = &object.namespace
            && !made.contains(namespace.as_str())
            && !namespace.contains("{{")
        {
            found.errors.push(format!(
                "{}nothing in the package makes the namespace `{namespace}`; add a Namespace",
                at(object
                    .node
                    .at(&["metadata", "namespace"])
                    .unwrap_or(&object.node))
            ));
        }
        if let Some(version) = kubernetes {
            served(object, version, found);
        }
        let group = object.group();
        let custom =
            group.contains('.') && !group.ends_with(".k8s.io") || group.ends_with(".x-k8s.io");
        if custom && !defined.contains(&(group.to_owned(), object.kind.clone())) {
            found.warnings.push(format!(
                "{}no manifest of the package defines `{}` of `{group}`; master0 waits for it",
                at(&object.node),
                object.kind
            ));
        }
        let key = (format!("{group} {}", object.kind), object.title());
        let here = format!("{}:{}", object.file, object.node.place.line);
        if let Some(before) = seen.insert(key, here) {
            found.warnings.push(format!(
                "{}it stands at {before} too; the last one counts",
                at(&object.node)
            ));
        }
        texts(object, found);
        if object.kind != "CustomResourceDefinition" {
            containers(object, &object.node, found);
        }
    }
}

fn served(object: &Object, version: &Version, found: &mut Manifests) {
    let gone = GONE.iter().find(|(api, kinds, minor)| {
        object.api_version == *api
            && (kinds.is_empty() || kinds.contains(&object.kind.as_str()))
            && version.minor >= *minor
    });
    if let Some((api, _, minor)) = gone {
        let place = object.node.get("apiVersion").unwrap_or(&object.node).place;
        found.errors.push(format!(
            "{}Kubernetes {version} has no `{api}` of {} (gone in 1.{minor}); take a release of \
             this manifest for it",
            object.at(place),
            object.kind
        ));
    }
}

/// Maps of texts, in which YAML's `5` and `yes` are none.
fn texts(object: &Object, found: &mut Manifests) {
    let core = object.group().is_empty();
    let mut maps: Vec<&[&str]> = vec![&["metadata", "labels"], &["metadata", "annotations"]];
    match object.kind.as_str() {
        "ConfigMap" if core => maps.push(&["data"]),
        "Secret" if core => maps.push(&["stringData"]),
        _ => {}
    }
    for map in maps {
        if let Some(Kind::Map(entries)) = object.node.at(map).map(|node| &node.kind) {
            entries
                .iter()
                .for_each(|(key, node)| text(object, key, node, found));
        }
    }
}

/// Reports a scalar that is no text where the API has a text.
fn text(object: &Object, field: &str, node: &Node, found: &mut Manifests) {
    match &node.kind {
        Kind::Scalar(value @ (Value::Bool(_) | Value::Number(_))) => found.errors.push(format!(
            "{}`{field}` is `{value}` to Kubernetes, which takes a text here; quote it",
            object.at(node.place)
        )),
        Kind::List(items) => items
            .iter()
            .for_each(|item| text(object, field, item, found)),
        _ => {}
    }
}

/// Finds every container below `node`.
fn containers(object: &Object, node: &Node, found: &mut Manifests) {
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for container in node.get(key).map(Node::items).unwrap_or_default() {
            let mut fields = Vec::new();
            for field in ["name", "command", "args"] {
                fields.extend(container.get(field).map(|node| (field, node)));
            }
            for variable in container.get("env").map(Node::items).unwrap_or_default() {
                for field in ["name", "value"] {
                    fields.extend(variable.get(field).map(|node| (field, node)));
                }
            }
            for (field, node) in fields {
                text(object, field, node, found);
            }
            let name = container
                .get("name")
                .and_then(Node::str)
                .unwrap_or("without name");
            let Some(image) = container.get("image") else {
                continue;
            };
            let by = format!("{}container `{name}`", object.at(image.place));
            let Some(text) = image.str().filter(|text| !text.is_empty()) else {
                found.errors.push(format!("{by}: `image` is no text"));
                continue;
            };
            if let Some(why) = not_an_image(text) {
                found
                    .errors
                    .push(format!("{by}: `{text}` is no name of an image: {why}"));
                continue;
            }
            let policy = container.get("imagePullPolicy").and_then(Node::str);
            let last = text.rsplit('/').next().unwrap_or(text);
            let latest = !last.contains(':') || last.ends_with(":latest");
            found.images.push(ImageUse {
                image: text.to_owned(),
                by,
                always: policy == Some("Always") || (policy.is_none() && latest),
            });
        }
    }
    match &node.kind {
        Kind::Scalar(_) => {}
        Kind::List(items) => items
            .iter()
            .for_each(|item| containers(object, item, found)),
        Kind::Map(entries) => entries
            .iter()
            .for_each(|(_, item)| containers(object, item, found)),
    }
}

/// Why the text is no reference (distribution's grammar). Placeholders have characters of their
/// own.
fn not_an_image(text: &str) -> Option<&'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@[]".contains(c);
    if text.contains("{{") || text.contains("${") || text.contains('<') || text.contains("__") {
        return Some("a placeholder is left in it; write the name");
    }
    if !text.chars().all(allowed) || text.contains("//") || text.ends_with(['/', ':']) {
        return Some("write `registry/repository:tag`");
    }
    let path = text.split_once('/').map_or(text, |(_, path)| path);
    let repository = path.split(['@', ':']).next().unwrap_or(path);
    repository
        .chars()
        .any(|c| c.is_ascii_uppercase())
        .then_some("a repository has no capital letters")
}

/// Why the apiserver refuses the object's name: all but those of RBAC are names of DNS.
fn not_a_name(object: &Object) -> Option<&'static str> {
    let name = object.name.as_str();
    // Reported as a template.
    if name.contains("{{") {
        return None;
    }
    if object.group() == "rbac.authorization.k8s.io" {
        let placeholder = name.contains(['/', '%', '$', '<', '>', '{', ' ']);
        return placeholder.then_some("it has `/`, `%`, a space or a placeholder");
    }
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let valid = name.chars().all(inner)
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
        && name.len() <= 253;
    (!valid).then_some("lower-case letters, digits, `-` and `.` only")
}

/// Texts that belong to another program, which may have templates of its own.
const FOREIGN: [&str; 6] = [
    "data",
    "stringData",
    "binaryData",
    "annotations",
    "description",
    "openAPIV3Schema",
];

fn templates(object: &Object, found: &mut Manifests) {
    let custom = object.group().contains('.') && !object.group().ends_with("k8s.io");
    let mut places = Vec::new();
    if custom {
        for key in ["apiVersion", "kind", "metadata"] {
            object
                .node
                .get(key)
                .into_iter()
                .for_each(|node| leftovers(node, &mut places));
        }
    } else {
        leftovers(&object.node, &mut places);
    }
    for (node, text) in places {
        found.errors.push(format!(
            "{}a template is left in `{text}`: render it before packing, or write the value",
            object.at(node.place)
        ));
    }
}

fn leftovers<'a>(node: &'a Node, places: &mut Vec<(&'a Node, &'a str)>) {
    match &node.kind {
        Kind::Scalar(Value::String(text)) => {
            if text.contains("{{") && text.contains("}}") {
                places.push((node, text.lines().next().unwrap_or(text)));
            }
        }
        Kind::Scalar(_) => {}
        Kind::List(items) => items.iter().for_each(|item| leftovers(item, places)),
        Kind::Map(entries) => {
            for (key, item) in entries {
                // An image's own error names the place.
                if !FOREIGN.contains(&key.as_str()) && key != "image" {
                    leftovers(item, places);
                }
            }
        }
    }
}
