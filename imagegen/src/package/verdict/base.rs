//! `conf/kubeadm.yaml` as its author wrote it: every value with its place.

use serde_json::Value;

use super::super::manifest::reader::{Kind, Node};
use super::conf::{KUBEADM, Setting};

/// The documents of the base of kubeadm's configuration.
#[derive(Debug, Default)]
pub(crate) struct Base {
    pub(super) documents: Vec<Node>,
}

pub(crate) const CLUSTER: &str = "ClusterConfiguration";
pub(crate) const INIT: &str = "InitConfiguration";
pub(crate) const KUBELET: &str = "KubeletConfiguration";
pub(crate) const PROXY: &str = "KubeProxyConfiguration";

impl Base {
    fn node(&self, kind: &str, path: &[&str]) -> Option<&Node> {
        let of_kind = |node: &&Node| node.get("kind").and_then(Node::str) == Some(kind);
        self.documents.iter().find(of_kind)?.at(path)
    }

    /// A scalar, empty if the key has no value.
    pub(crate) fn setting(&self, kind: &str, path: &[&str]) -> Option<Setting> {
        setting(self.node(kind, path)?)
    }

    /// The place of a value of any shape.
    pub(crate) fn place(&self, kind: &str, path: &[&str]) -> Option<String> {
        self.node(kind, path).map(at)
    }

    /// Texts of a list.
    pub(crate) fn list(&self, kind: &str, path: &[&str]) -> Vec<Setting> {
        let items = self.node(kind, path).map(Node::items).unwrap_or_default();
        items.iter().filter_map(setting).collect()
    }

    /// Flags of a component, in the shape of any version: a mapping, or a list of names and values.
    pub(crate) fn flags(&self, component: &str) -> Vec<(String, Setting)> {
        let Some(node) = self.node(CLUSTER, &[component, "extraArgs"]) else {
            return Vec::new();
        };
        match &node.kind {
            Kind::Map(entries) => entries
                .iter()
                .filter_map(|(name, node)| Some((name.clone(), setting(node)?)))
                .collect(),
            Kind::List(items) => items
                .iter()
                .filter_map(|item| {
                    let name = item.get("name").and_then(Node::str)?;
                    Some((name.to_owned(), setting(item.get("value")?)?))
                })
                .collect(),
            Kind::Scalar(_) => Vec::new(),
        }
    }

    pub(crate) fn flag(&self, component: &str, name: &str) -> Option<Setting> {
        let mut flags = self.flags(component).into_iter();
        flags.find(|(own, _)| own == name).map(|(_, value)| value)
    }
}

fn at(node: &Node) -> String {
    format!("{KUBEADM}:{}:{}", node.place.line, node.place.column)
}

fn setting(node: &Node) -> Option<Setting> {
    let value = match &node.kind {
        Kind::Scalar(Value::String(text)) => text.clone(),
        Kind::Scalar(Value::Null) => String::new(),
        Kind::Scalar(value) => value.to_string(),
        Kind::List(_) | Kind::Map(_) => return None,
    };
    Some(Setting {
        value,
        place: at(node),
    })
}
