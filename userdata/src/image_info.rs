//! The image file: describes the content of the image to firstboot.

use serde::{Deserialize, Serialize};

use crate::runtime::Runtime;

/// `/usr/share/firstlight/image.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageInfo {
    /// `firstlight/v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// `Image`.
    pub kind: String,
    /// The package's kubeadm and kubelet, without a leading `v`: `1.20.2`.
    pub kubernetes_version: String,
    /// The group and version kubeadm of that release reads: `kubeadm.k8s.io/v1beta2`.
    pub kubeadm_api_version: String,
    /// `containerd`, `dockershim` or `cri-dockerd`; socket and unit follow from it.
    pub runtime: Runtime,
    /// Where control plane images are named: `k8s.gcr.io`.
    pub image_repository: String,
    /// Tag of `<image_repository>/etcd` in the package: `3.5.16-0`.
    pub etcd_image_tag: String,
    /// Full reference of the pause image: `k8s.gcr.io/pause:3.2`.
    pub pause_image: String,
    /// Every image in the runtime's store, as `repository:tag`, sorted.
    pub images: Vec<String>,
    /// kubeadm add-ons whose image the package does not hold, and which init therefore skips:
    /// `coredns`.
    #[serde(default)]
    pub missing_addons: Vec<String>,
    /// Full reference of the CoreDNS image, where the package holds one.
    #[serde(default)]
    pub coredns_image: Option<String>,
    /// What the package's own kubeadm says that it does.
    pub kubeadm_phases: KubeadmPhases,
    /// Digest of the package, `sha256:…`.
    pub package_digest: String,
    /// What happens to keys of a document that an immutable root cannot honour.
    #[serde(default)]
    pub impossible_keys: ImpossibleKeys,
}

/// What happens to `packages`, `apt`, `snap` and their like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImpossibleKeys {
    /// The rest of the document applies; journal, console and status say what is missing.
    #[default]
    Report,
    /// The document is refused.
    Refuse,
}

/// The phases of the package's kubeadm, as its help lists them: `certs`, `certs/ca`.
///
/// Their names change between minor releases, and kubeadm refuses to skip a phase that it does not
/// have. Those of [`HIDDEN_JOIN_PHASES`] that it has without listing them are here too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubeadmPhases {
    pub init: Vec<String>,
    pub join: Vec<String>,
}

/// Phases of `kubeadm join` that some releases have and do not list, and that firstboot skips.
pub const HIDDEN_JOIN_PHASES: &[&str] = &[
    "check-etcd",
    "etcd-join",
    "kubelet-wait-bootstrap",
    "control-plane-join/etcd",
    "wait-control-plane",
];
