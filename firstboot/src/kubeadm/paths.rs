//! Files of kubeadm, kubelet and etcd that more than one step uses.

use crate::system::files::Root;

pub const ADMIN_CONF: &str = "/etc/kubernetes/admin.conf";
pub const KUBELET_CONF: &str = "/etc/kubernetes/kubelet.conf";
pub const CA_CERTIFICATE: &str = "/etc/kubernetes/pki/ca.crt";
pub const CA_KEY: &str = "/etc/kubernetes/pki/ca.key";
pub const MANIFESTS: &str = "/etc/kubernetes/manifests";
pub const ETCD_DATA: &str = "/var/lib/etcd";
/// Data of an etcd that never served or of a removed member, kept for inspection.
pub const ETCD_BACKUP: &str = "/var/lib/firstlight/etcd-unfinished";
pub const KUBELET_FILES: [&str; 2] = [
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
];

pub const STATIC_PODS: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// The path of a static pod's manifest.
pub fn manifest(name: &str) -> String {
    format!("{MANIFESTS}/{name}.yaml")
}

/// Whether all four static pods of a control plane have a manifest.
pub fn has_static_pods(root: &Root) -> bool {
    STATIC_PODS.iter().all(|name| root.exists(manifest(name)))
}

pub fn has_kubelet_files(root: &Root) -> bool {
    KUBELET_FILES.iter().all(|path| root.exists(path))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::system::files::Attributes;

    /// Writes every file that a finished control-plane host has; `check` runs before each.
    pub fn write_all(root: &Root, mut check: impl FnMut(&str)) {
        let manifests = STATIC_PODS.map(manifest);
        for path in manifests.iter().map(String::as_str).chain(KUBELET_FILES) {
            check(path);
            root.write(path, b"", Attributes::mode(0o600)).unwrap();
        }
    }
}
