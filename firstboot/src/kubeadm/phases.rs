//! Which phases of kubeadm firstboot runs, in which calls.
//!
//! kubeadm 1.20's `init` and `join` are not made to run twice, but their phases are (read in `cmd/kubeadm/app`): `certs`
//! and `kubeconfig` keep existing files, `kubelet-start`, `control-plane` and `etcd` rewrite the same files,
//! `upload-config`, `mark-control-plane` and `addon` create or update. Only `preflight` blocks a second run (manifests
//! present, ports in use, etcd's directory not empty); everything else that it checks is a property of the image or is
//! checked by an earlier step, so firstboot skips it.
//!
//! Several calls, because kubeadm's own waits have fixed limits (40 s for kubelet, two minutes for the node object) that
//! a slow machine exceeds. firstboot waits between the calls, without a limit, and reports what it waits for.

use anyhow::Result;

use crate::step::cluster::kubeadm_config;
use crate::system::command;

/// `init`, first call: up to the static pods that kubelet starts.
pub const INIT_STATIC_PODS: &[&str] = &[
    "preflight",
    "wait-control-plane",
    "upload-config",
    "upload-certs",
    "mark-control-plane",
    "bootstrap-token",
    "kubelet-finalize",
    "addon",
];

/// `init`, second call: what needs an apiserver. Still skipped: `upload-certs` and `bootstrap-token`, because no host joins
/// by a shared secret; `kubelet-finalize`, because the document's kubelet.conf already has a certificate.
pub const INIT_FINISH: &[&str] = &[
    "preflight",
    "certs",
    "kubeconfig",
    "kubelet-start",
    "control-plane",
    "etcd",
    "wait-control-plane",
    "upload-certs",
    "bootstrap-token",
    "kubelet-finalize",
];

/// `join` of a control-plane host, first call: certificates, kubeconfigs, kubelet.
pub const JOIN_KUBELET: &[&str] = &[
    "control-plane-prepare/control-plane",
    "check-etcd",
    "control-plane-join",
];

/// `join` of a control-plane host, second call: the static pods except etcd.
pub const JOIN_STATIC_PODS: &[&str] = &[
    "control-plane-prepare/download-certs",
    "control-plane-prepare/certs",
    "control-plane-prepare/kubeconfig",
    "check-etcd",
    "kubelet-start",
    "control-plane-join",
];

/// `join` of a control-plane host, third call: cluster status, label and taint. firstboot joined etcd itself.
pub const JOIN_FINISH: &[&str] = &[
    "control-plane-prepare",
    "check-etcd",
    "kubelet-start",
    "control-plane-join/etcd",
];

/// Runs `kubeadm init` without the phases in `skipped` and without add-ons whose images the package lacks.
pub fn init(skipped: &[&str], missing_addons: &[String]) -> Result<()> {
    let mut skipped: Vec<_> = skipped.iter().map(|phase| (*phase).to_owned()).collect();
    if !skipped.iter().any(|phase| phase == "addon") {
        skipped.extend(missing_addons.iter().map(|addon| format!("addon/{addon}")));
    }
    let skip = format!("--skip-phases={}", skipped.join(","));
    let config = format!("--config={}", kubeadm_config::PATH);
    // kubeadm generates a token that firstboot never stores; the journal must not hold it either.
    command::run("kubeadm", &["init", &config, &skip, "--skip-token-print"])
}

/// Runs `kubeadm join` without the phases in `skipped`; `preflight` never runs.
pub fn join(skipped: &[&str]) -> Result<()> {
    let config = format!("--config={}", kubeadm_config::PATH);
    let skip = format!("--skip-phases=preflight,{}", skipped.join(","));
    command::run("kubeadm", &["join", &config, skip.trim_end_matches(',')])
}
