//! Which phases of kubeadm firstboot runs, in which calls.
//!
//! kubeadm's `init` and `join` are not made to run twice, but their phases are (read in
//! `cmd/kubeadm/app`): `certs` and `kubeconfig` keep existing files, `kubelet-start`,
//! `control-plane` and `etcd` rewrite the same files, `upload-config`, `mark-control-plane` and
//! `addon` create or update. Only `preflight` blocks a second run (manifests present, ports in use,
//! etcd's directory not empty); everything else that it checks is a property of the image or is
//! checked by an earlier step, so firstboot skips it.
//!
//! Several calls, because kubeadm's own waits have fixed limits (40 s for kubelet, two minutes for
//! the node object) that a slow machine exceeds. firstboot waits between the calls, without a
//! limit, and reports what it waits for.
//!
//! Each list names the phases of every supported minor. kubeadm refuses to skip a phase that it
//! does not have, so each call leaves out the names that the image's kubeadm does not list:
//!
//! | phase | in |
//! | --- | --- |
//! | `init`: `show-join-command` | 1.26 and later; it needs `bootstrap-token`, which firstboot skips |
//! | `init`: `kubeconfig/super-admin` | 1.29 and later; the document's admin.conf has the same rights |
//! | `join`: `etcd-join` | 1.31 and later; it adds this host's etcd member, which firstboot does itself |
//! | `join`: `kubelet-wait-bootstrap` | 1.31 and later; part of `kubelet-start` before |
//! | `join`: `wait-control-plane` | 1.30 and later |
//! | `join`: `control-plane-join/etcd` | up to 1.35, without effect from 1.33 |

use anyhow::Result;
use userdata::image_info::KubeadmPhases;

use crate::step::cluster::kubeadm_config;
use crate::system::command;

/// `init`, first call: up to the static pods that kubelet starts.
pub const INIT_STATIC_PODS: &[&str] = &[
    "preflight",
    "kubeconfig/super-admin",
    "wait-control-plane",
    "upload-config",
    "upload-certs",
    "mark-control-plane",
    "bootstrap-token",
    "kubelet-finalize",
    "addon",
    "show-join-command",
];

/// `init`, second call: what needs an apiserver. Still skipped: `upload-certs` and
/// `bootstrap-token`, because no host joins by a shared secret; `kubelet-finalize`, because the
/// document's kubelet.conf already has a certificate.
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
    "show-join-command",
];

/// `join` of a control-plane host, first call: certificates, kubeconfigs, kubelet.
pub const JOIN_KUBELET: &[&str] = &[
    "control-plane-prepare/control-plane",
    "check-etcd",
    "etcd-join",
    "control-plane-join",
    "wait-control-plane",
];

/// `join` of a control-plane host, second call: the static pods except etcd.
pub const JOIN_STATIC_PODS: &[&str] = &[
    "control-plane-prepare/download-certs",
    "control-plane-prepare/certs",
    "control-plane-prepare/kubeconfig",
    "check-etcd",
    "kubelet-start",
    "etcd-join",
    "kubelet-wait-bootstrap",
    "control-plane-join",
    "wait-control-plane",
];

/// `join` of a control-plane host, third call: cluster status, label and taint. firstboot joined
/// etcd itself.
pub const JOIN_FINISH: &[&str] = &[
    "control-plane-prepare",
    "check-etcd",
    "kubelet-start",
    "etcd-join",
    "kubelet-wait-bootstrap",
    "control-plane-join/etcd",
    "wait-control-plane",
];

/// Runs `kubeadm init` without the phases in `skipped` and without add-ons whose images the package
/// lacks.
pub fn init(phases: &KubeadmPhases, skipped: &[&str], missing_addons: &[String]) -> Result<()> {
    let mut skipped = existing(skipped, &phases.init);
    if !skipped.iter().any(|phase| phase == "addon") {
        skipped.extend(missing_addons.iter().map(|addon| format!("addon/{addon}")));
    }
    let skip = format!("--skip-phases={}", skipped.join(","));
    let config = format!("--config={}", kubeadm_config::PATH);
    // kubeadm generates a token that firstboot never stores; the journal must not hold it either.
    command::run("kubeadm", &["init", &config, &skip, "--skip-token-print"])
}

/// Runs `kubeadm join` without the phases in `skipped`; `preflight` never runs.
pub fn join(phases: &KubeadmPhases, skipped: &[&str]) -> Result<()> {
    let mut names = vec!["preflight"];
    names.extend(skipped);
    let config = format!("--config={}", kubeadm_config::PATH);
    let skip = format!("--skip-phases={}", existing(&names, &phases.join).join(","));
    command::run("kubeadm", &["join", &config, &skip])
}

/// Those of `names` that this kubeadm has.
fn existing(names: &[&str], listed: &[String]) -> Vec<String> {
    names
        .iter()
        .filter(|name| listed.iter().any(|phase| phase == *name))
        .map(|name| (*name).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_phases_that_this_kubeadm_has_are_skipped() {
        let listed = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        // As imagegen records them of 1.20 and of 1.37.
        let old = listed(&[
            "preflight",
            "control-plane-prepare",
            "control-plane-prepare/control-plane",
            "kubelet-start",
            "control-plane-join",
            "check-etcd",
            "control-plane-join/etcd",
            "control-plane-join/update-status",
            "control-plane-join/mark-control-plane",
        ]);
        let new = listed(&[
            "preflight",
            "control-plane-prepare",
            "control-plane-prepare/control-plane",
            "kubelet-start",
            "etcd-join",
            "kubelet-wait-bootstrap",
            "control-plane-join",
            "control-plane-join/mark-control-plane",
            "wait-control-plane",
            "check-etcd",
        ]);
        assert_eq!(
            existing(JOIN_FINISH, &old),
            [
                "control-plane-prepare",
                "check-etcd",
                "kubelet-start",
                "control-plane-join/etcd"
            ]
        );
        assert_eq!(
            existing(JOIN_FINISH, &new),
            [
                "control-plane-prepare",
                "check-etcd",
                "kubelet-start",
                "etcd-join",
                "kubelet-wait-bootstrap",
                "wait-control-plane"
            ]
        );
        assert_eq!(
            existing(JOIN_KUBELET, &new),
            [
                "control-plane-prepare/control-plane",
                "check-etcd",
                "etcd-join",
                "control-plane-join",
                "wait-control-plane"
            ]
        );
    }
}
