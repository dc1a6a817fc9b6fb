//! Programs that the package lacks and the image supplies: crictl and CNI plugins.

use default_package::{SUPPLIED_CRICTL, supplied_plugins, supplied_version};
use userdata::runtime::Runtime;

use super::{State, Supplied, Verdict};

/// Where CNI plugins are; those that a pod network installs are written there too.
pub(super) const PLUGINS: &str = "opt/cni/bin";

pub(super) fn judge(verdict: &mut Verdict) {
    let placed = |to: &str| verdict.runtime.iter().any(|placed| placed.to == to);
    let crictl = format!("usr/bin/{SUPPLIED_CRICTL}");
    let has = placed(&crictl) || verdict.programs.iter().any(|own| own == SUPPLIED_CRICTL);
    let lacks: Vec<Supplied> = supplied_plugins()
        .into_iter()
        .map(|program| Supplied {
            program,
            to: format!("{PLUGINS}/{program}"),
        })
        .filter(|plugin| !placed(&plugin.to))
        .collect();
    // kubeadm asks docker by docker's own program, and dockershim speaks CRI v1 only in 1.23.
    if !has && verdict.container_runtime != Runtime::Dockershim {
        // kubeadm before 1.32 asks the runtime by it, and so do people.
        let detail = format!(
            "the package has none: {}",
            supplied_version(SUPPLIED_CRICTL)
        );
        verdict.part(format!("/{crictl}"), State::Supplied, detail);
        verdict.supplied.push(Supplied {
            program: SUPPLIED_CRICTL,
            to: crictl,
        });
    }
    if let [first, ..] = lacks.as_slice() {
        let names: Vec<&str> = lacks.iter().map(|plugin| plugin.program).collect();
        let version = supplied_version(first.program);
        let detail = format!("the package lacks them: {} of {version}", names.join(", "));
        verdict.part(format!("/{PLUGINS}/"), State::Supplied, detail);
        verdict.supplied.extend(lacks);
    }
}
