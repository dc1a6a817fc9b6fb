//! The package's manifests: read as the apiserver reads them, checked as far as a build can tell,
//! and put in an order in which each object finds what it needs.

mod check;
mod complete;
pub(crate) mod reader;
mod scalar;

use std::collections::BTreeSet;

use serde_json::Value;

use self::reader::{Fault, Node, Place};

pub(crate) use self::check::ImageUse;

/// One object of a manifest.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// `conf/net/calico.yaml`.
    pub(crate) file: String,
    /// The document's number in the file, from 1.
    pub(crate) document: usize,
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) node: Node,
}

impl Object {
    /// `DaemonSet kube-system/calico-node`
    pub(crate) fn title(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    fn group(&self) -> &str {
        self.api_version
            .split_once('/')
            .map_or("", |(group, _)| group)
    }

    /// `conf/net/calico.yaml:7:3: document 2, DaemonSet kube-system/calico-node: `
    pub(crate) fn at(&self, place: Place) -> String {
        format!(
            "{}:{}:{}: document {}, {}: ",
            self.file,
            place.line,
            place.column,
            self.document,
            self.title()
        )
    }
}

/// All manifests of a package.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    /// In the order in which master0 applies them.
    pub(crate) objects: Vec<Object>,
    pub(crate) images: Vec<ImageUse>,
    pub(crate) errors: Vec<String>,
    pub(crate) warnings: Vec<String>,
    /// Values that were completed, for the person who wrote them.
    pub(crate) changes: Vec<String>,
}

impl Manifests {
    /// Reads the files, which are given with their names in the package.
    pub(crate) fn read(files: &[(String, Vec<u8>)], kubernetes: Option<&semver::Version>) -> Self {
        let mut found = Self::default();
        for (name, bytes) in files {
            found.file(name, bytes);
        }
        let mut made = found.objects.clone();
        check::objects(&mut found, kubernetes);
        order(&mut made);
        found.objects = made;
        for object in &mut found.objects {
            complete::object(object, &mut found.changes);
        }
        found
    }

    fn file(&mut self, name: &str, bytes: &[u8]) {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let line = bytes[..error.valid_up_to()]
                    .iter()
                    .filter(|&&b| b == b'\n')
                    .count()
                    + 1;
                return self
                    .errors
                    .push(format!("{name}:{line}: not UTF-8; save it as UTF-8"));
            }
        };
        let say = |fault: Fault| {
            format!(
                "{name}:{}:{}: {}",
                fault.place.line, fault.place.column, fault.text
            )
        };
        match reader::read(text) {
            Err(fault) => self.errors.push(say(fault)),
            Ok(file) => {
                self.warnings.extend(file.hints.into_iter().map(say));
                for (document, node) in file.documents {
                    self.document(name, document, node);
                }
            }
        }
    }

    /// One object, or the items of a list.
    fn document(&mut self, file: &str, document: usize, node: Node) {
        let is_list = node
            .get("kind")
            .and_then(Node::str)
            .is_some_and(|kind| kind.ends_with("List"));
        if let (true, Some(items)) = (is_list, node.get("items")) {
            for item in items.items() {
                self.document(file, document, item.clone());
            }
            return;
        }
        let at = format!(
            "{file}:{}:{}: document {document}: ",
            node.place.line, node.place.column
        );
        let text = |path: &[&str]| node.at(path).and_then(Node::str).filter(|t| !t.is_empty());
        let (Some(api_version), Some(kind)) = (text(&["apiVersion"]), text(&["kind"])) else {
            return self.errors.push(format!(
                "{at}no object of Kubernetes: `apiVersion` and `kind` must be texts"
            ));
        };
        let Some(name) = text(&["metadata", "name"]) else {
            return self.errors.push(format!(
                "{at}this {kind} has no text in `metadata.name`, by which `kubectl apply` finds it"
            ));
        };
        self.objects.push(Object {
            file: file.to_owned(),
            document,
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: text(&["metadata", "namespace"]).map(str::to_owned),
            name: name.to_owned(),
            node,
        });
    }

    /// All objects as JSON documents, which every YAML reader takes alike.
    pub(crate) fn text(&self) -> String {
        let texts: Vec<String> = self
            .objects
            .iter()
            .map(|object| format!("{:#}\n", object.node.value()))
            .collect();
        texts.join("---\n")
    }
}

/// Namespaces and definitions come first, objects of those definitions last; all others keep the
/// order of their files, as `kubectl apply` takes them.
fn order(objects: &mut [Object]) {
    let defined = definitions(objects);
    objects.sort_by_key(|object| match object.kind.as_str() {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        kind if defined.contains(&(object.group().to_owned(), kind.to_owned())) => 3,
        _ => 2,
    });
}

/// Group and kind of each definition.
fn definitions(objects: &[Object]) -> BTreeSet<(String, String)> {
    let crds = objects
        .iter()
        .filter(|object| object.kind == "CustomResourceDefinition");
    crds.filter_map(|object| {
        let text = |path: &[&str]| object.node.at(path).and_then(Node::str).map(str::to_owned);
        Some((text(&["spec", "group"])?, text(&["spec", "names", "kind"])?))
    })
    .collect()
}

/// Sets `key` in a mapping.
fn set(node: &mut Node, key: &str, value: &str) {
    let place = node.place;
    if let reader::Kind::Map(entries) = &mut node.kind {
        entries.retain(|(known, _)| known != key);
        let kind = reader::Kind::Scalar(Value::String(value.to_owned()));
        entries.push((key.to_owned(), Node { place, kind }));
    }
}

#[cfg(test)]
mod tests;
