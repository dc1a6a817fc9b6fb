//! kubeadm's configuration of a package, with the place of each value that matters.

use serde_json::Value;

use super::super::Package;
use super::super::manifest::reader::{self, Kind, Node};
use super::Verdict;
use super::base::Base;

/// A value and its place: `conf/kubeadm.yaml:7:15`.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) value: String,
    pub(crate) place: String,
}

/// What `conf/kubeadm.yaml` says.
#[derive(Debug, Default)]
pub(crate) struct Kubeadm {
    pub(super) documents: Vec<Value>,
    /// The same, with the place of every value.
    pub(super) base: Base,
    pub(super) image_repository: Option<Setting>,
    pub(super) etcd_repository: Option<Setting>,
    pub(super) etcd_tag: Option<Setting>,
    /// Of the kubelet; empty if the key has no value.
    pub(super) cgroup_driver: Option<Setting>,
}

pub(super) const KUBEADM: &str = "conf/kubeadm.yaml";

pub(super) fn kubeadm(package: &Package, verdict: &mut Verdict) -> Kubeadm {
    let mut found = Kubeadm::default();
    let bytes = package.file(KUBEADM).ok().flatten().unwrap_or_default();
    let Ok(text) = std::str::from_utf8(&bytes) else {
        verdict
            .errors
            .push(format!("{KUBEADM}: not UTF-8; save it as UTF-8"));
        return found;
    };
    let file = match reader::read(text) {
        Ok(file) => file,
        Err(fault) => {
            let place = fault.place;
            verdict.errors.push(format!(
                "{KUBEADM}:{}:{}: {}",
                place.line, place.column, fault.text
            ));
            return found;
        }
    };
    for hint in &file.hints {
        let place = hint.place;
        verdict.warnings.push(format!(
            "{KUBEADM}:{}:{}: {}",
            place.line, place.column, hint.text
        ));
    }
    for (number, document) in &file.documents {
        let at = |node: &Node| format!("{KUBEADM}:{}:{}", node.place.line, node.place.column);
        let setting = |path: &[&str]| {
            let node = document.at(path)?;
            let value = match &node.kind {
                Kind::Scalar(Value::String(text)) => text.clone(),
                Kind::Scalar(Value::Null) => String::new(),
                Kind::Scalar(value) => value.to_string(),
                _ => return None,
            };
            Some(Setting {
                value,
                place: at(node),
            })
        };
        if !matches!(document.kind, Kind::Map(_)) {
            verdict.errors.push(format!(
                "{}: document {number} is no mapping of keys and values",
                at(document)
            ));
            continue;
        }
        template(document, &at, verdict);
        match document.get("kind").and_then(Node::str) {
            Some("ClusterConfiguration") => {
                let filled = |path: &[&str]| setting(path).filter(|own| !own.value.is_empty());
                found.image_repository = filled(&["imageRepository"]);
                found.etcd_repository = filled(&["etcd", "local", "imageRepository"]);
                found.etcd_tag = filled(&["etcd", "local", "imageTag"]);
            }
            Some("KubeletConfiguration") => found.cgroup_driver = setting(&["cgroupDriver"]),
            Some(_) => {}
            None => verdict.errors.push(format!(
                "{}: document {number} has no `kind`; write `kind: ClusterConfiguration`",
                at(document)
            )),
        }
        found.documents.push(document.value());
        found.base.documents.push(document.clone());
    }
    found
}

fn template(node: &Node, at: &impl Fn(&Node) -> String, verdict: &mut Verdict) {
    match &node.kind {
        Kind::Scalar(Value::String(text)) if text.contains("{{") => verdict.errors.push(format!(
            "{}: a template is left in `{text}`: write the value; the topology gives networks, \
             addresses and certificate names",
            at(node)
        )),
        Kind::Scalar(_) => {}
        Kind::List(items) => items.iter().for_each(|item| template(item, at, verdict)),
        Kind::Map(entries) => entries
            .iter()
            .for_each(|(_, item)| template(item, at, verdict)),
    }
}
