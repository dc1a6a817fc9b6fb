//! Who writes which file, and what is whole after which step.

use firstboot::trust::record::{COPY, PATH};
use userdata::contract::RECEIPT_FILE;

use super::{APPLIED, HOSTS, Known};

/// The folder of firstboot's own files.
pub(super) const OWN: &str = "/var/lib/firstlight/";
pub(super) const HOST_KEYS: &str = "/etc/ssh/ssh_host_";
const KUBELET: [&str; 2] = [
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
];

/// Markers, and the files that a machine with them never writes again.
pub(super) const MARKERS: [(&str, Files); 5] = [
    ("apiserver-answered", Files::None),
    ("control-plane-initialised", Files::Kubeadm),
    ("kubelet-configured", Files::Kubelet),
    ("etcd-votes", Files::None),
    ("joined", Files::Kubeadm),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    None,
    Kubelet,
    /// All that kubeadm has written.
    Kubeadm,
}

/// Who writes a file, and so what a cut may do to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// Replaces files as a whole.
    Firstboot,
    /// Several versions; each is checked by its own form.
    Changing,
    /// Does not sync; firstboot runs it again until a marker is set.
    Kubeadm,
    /// ssh-keygen, which firstboot runs again until sshd is enabled.
    Keygen,
    /// systemd and others.
    Other,
}

impl Known {
    pub(super) fn writer(&self, path: &str) -> Writer {
        if [PATH, COPY, RECEIPT_FILE, APPLIED, HOSTS].contains(&path) {
            return Writer::Changing;
        }
        if self.document.contains(path) {
            return Writer::Firstboot;
        }
        if path.starts_with(HOST_KEYS) {
            return Writer::Keygen;
        }
        let own = [
            "/etc/hostname",
            "/etc/resolv.conf",
            "/etc/systemd/network/",
            "/etc/ssh/authorized_keys.d/",
            "/etc/ssh/sshd_config.d/",
            "/etc/kubernetes/manifests/lvscare.yaml",
            OWN,
        ];
        if own.iter().any(|begin| path.starts_with(begin)) {
            return Writer::Firstboot;
        }
        if KUBELET.contains(&path) || path.starts_with("/etc/kubernetes/") {
            return Writer::Kubeadm;
        }
        Writer::Other
    }

    /// The files that a step leaves, all of them synced before it is done.
    pub(super) fn files_of(&self, step: &str) -> Vec<&str> {
        let below = |begin: &'static str| {
            let paths = self.end.keys().map(String::as_str);
            paths.filter(move |path| path.starts_with(begin))
        };
        let own = |name: &str| below(OWN).find(|path| path[OWN.len()..] == *name);
        let marker = |name: &str, files| own(name).into_iter().chain(self.marked(files)).collect();
        match (step, self.role.as_str()) {
            ("hostname", _) => vec!["/etc/hostname"],
            ("network", _) => below("/etc/systemd/network/").collect(),
            ("users", _) => below("/etc/ssh/authorized_keys.d/")
                .chain(below(HOST_KEYS))
                .chain(below("/etc/ssh/sshd_config.d/"))
                .collect(),
            ("files", _) => self.document.iter().map(String::as_str).collect(),
            ("hosts", _) => vec![HOSTS],
            ("kubeadm-config", _) => vec!["/var/lib/firstlight/kubeadm.yaml"],
            ("lvscare", _) => vec!["/etc/kubernetes/manifests/lvscare.yaml"],
            ("apiserver-ready", "master0") => marker("apiserver-answered", Files::None),
            ("init-finish", _) => marker("control-plane-initialised", Files::Kubeadm),
            ("kubelet-start", _) => marker("kubelet-configured", Files::Kubelet),
            ("etcd-member", _) => marker("etcd-votes", Files::None),
            ("join-finish", _) => marker("joined", Files::Kubeadm),
            ("manifests", _) => own("manifests-applied").into_iter().collect(),
            ("system-pods", _) => own("system-pods-ready").into_iter().collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn marked(&self, files: Files) -> Vec<&str> {
        match files {
            Files::None => Vec::new(),
            Files::Kubelet => KUBELET.to_vec(),
            Files::Kubeadm => {
                let paths = self.end.keys().map(String::as_str);
                let kubeadms = paths.filter(|path| self.writer(path) == Writer::Kubeadm);
                kubeadms.collect()
            }
        }
    }
}

/// What firstboot does not read and removes before it writes the file again.
pub(super) fn is_temporary(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.starts_with('.') && name.ends_with(".firstboot")
}
