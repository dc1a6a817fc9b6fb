//! kubeadm's configuration and the units of a package; the image supplies what it lacks.

use semver::Version;
use serde_json::Value;

use super::super::Package;
use super::super::manifest::reader::{self, Kind, Node};
use super::{State, Verdict};

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
    pub(super) image_repository: Option<Setting>,
    pub(super) etcd_repository: Option<Setting>,
    pub(super) etcd_tag: Option<Setting>,
    /// Of the kubelet; empty if the key has no value.
    pub(super) cgroup_driver: Option<Setting>,
}

const KUBEADM: &str = "conf/kubeadm.yaml";

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

const OURS: [(&str, &str); 4] = [
    (
        "10-kubeadm.conf",
        include_str!("../../../default-package/conf/10-kubeadm.conf"),
    ),
    (
        "kubelet.service",
        include_str!("../../../default-package/conf/kubelet.service"),
    ),
    (
        "containerd.service",
        include_str!("../../../default-package/conf/containerd.service"),
    ),
    (
        "crictl.yaml",
        include_str!("../../../default-package/conf/crictl.yaml"),
    ),
];

/// Flags that the kubelet has no more, with the minor release that refuses them.
const GONE: [(&str, u64); 6] = [
    ("--network-plugin", 24),
    ("--cni-bin-dir", 24),
    ("--cni-conf-dir", 24),
    ("--container-runtime=", 27),
    ("--pod-infra-container-image", 35),
    ("--dynamic-config-dir", 24),
];

/// Units and the configuration of crictl: the package's own, or ours.
pub(super) fn units(package: &Package, version: Option<&Version>, verdict: &mut Verdict) {
    for (name, ours) in OURS {
        let file = format!("conf/{name}");
        let Some(bytes) = package.file(&file).ok().flatten() else {
            verdict.part(file, State::Supplied, "the package has none");
            verdict
                .conf
                .insert(name.to_owned(), ours.as_bytes().to_vec());
            continue;
        };
        let Ok(text) = String::from_utf8(bytes) else {
            verdict
                .errors
                .push(format!("{file}: not UTF-8; save it as UTF-8"));
            continue;
        };
        flags(&file, &text, version, verdict);
        // The unit of upstream's archives starts /usr/local/bin/containerd.
        let fit = text
            .replace("\r\n", "\n")
            .replace("/usr/local/bin/", "/usr/bin/");
        if fit == text {
            verdict.part(file, State::Used, "in the image as it is");
        } else {
            verdict.part(
                file,
                State::Changed,
                "programs are in /usr/bin; lines end with LF",
            );
        }
        verdict.conf.insert(name.to_owned(), fit.into_bytes());
    }
    for name in package.names().filter(|name| name.starts_with("conf/")) {
        let rest = name.trim_start_matches("conf/");
        let known = OURS.iter().any(|(own, _)| *own == rest)
            || rest.starts_with("net/")
            || matches!(
                rest,
                "kubeadm.yaml" | "calico.yaml" | "containerd-config.toml" | "config.toml"
            );
        if rest == "docker.service" {
            verdict.part(name, State::NotUsed, "nodes run containerd");
        } else if !known {
            let kept = format!(
                "no part of the layout; kept for hooks as {}/{rest}",
                userdata::contract::CONF_DIR
            );
            verdict.part(name, State::NotUsed, kept);
        }
    }
}

fn flags(file: &str, text: &str, version: Option<&Version>, verdict: &mut Verdict) {
    for (number, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with('#'))
    {
        let script = "kubelet-pre-start.sh";
        let ignored = line.trim_start().starts_with("ExecStartPre=-");
        if line.contains(script) && !ignored && !verdict.programs.iter().any(|own| own == script) {
            verdict.errors.push(format!(
                "{file}:{}: it runs {script}, which `bin/` lacks; add it, or write \
                 `ExecStartPre=-` so that a missing one is no failure",
                number + 1
            ));
        }
        let minor = version.map_or(0, |version| version.minor);
        let gone = GONE
            .iter()
            .find(|(flag, since)| line.contains(flag) && minor >= *since);
        if let (Some((flag, since)), Some(version)) = (gone, version) {
            verdict.errors.push(format!(
                "{file}:{}: the kubelet of Kubernetes {version} has no flag `{}` (gone in \
                 1.{since}); remove it",
                number + 1,
                flag.trim_end_matches('=')
            ));
        }
        let empty = ["--cgroup-driver= ", "--cgroup-driver=\""]
            .iter()
            .any(|flag| line.contains(flag))
            || line.ends_with("--cgroup-driver=");
        if empty {
            verdict.errors.push(format!(
                "{file}:{}: `--cgroup-driver=` has no value; remove it",
                number + 1
            ));
        }
    }
}
