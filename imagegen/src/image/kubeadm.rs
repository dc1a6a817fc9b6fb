//! Asks the package's kubeadm which phases it has.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use build_tools::debian_tree::Tree;
use build_tools::process;
use userdata::image_info::{HIDDEN_JOIN_PHASES, KubeadmPhases};

/// The phases of `init` and `join`, as the program's own help lists them.
///
/// A package is untrusted: its kubeadm runs as the user nobody, with `tools` as its root.
pub fn phases(tools: &Tree, package: &Path) -> Result<KubeadmPhases> {
    let mut join = ask(tools, package, "join")?;
    for phase in HIDDEN_JOIN_PHASES {
        if !join.iter().any(|listed| listed == phase) && has_hidden(tools, package, phase)? {
            join.push((*phase).to_owned());
        }
    }
    Ok(KubeadmPhases {
        init: ask(tools, package, "init")?,
        join,
    })
}

/// Whether `join` has a phase that its help does not list.
///
/// kubeadm checks the names of phases to skip before it runs the first one, `preflight`, which
/// refuses to run for anybody but root.
fn has_hidden(tools: &Tree, package: &Path, phase: &str) -> Result<bool> {
    let mut join = kubeadm(tools, package)?;
    join.args(["join", "192.0.2.1:6443", "--node-name=probe"]);
    join.args([
        "--token=abcdef.0123456789abcdef",
        "--discovery-token-unsafe-skip-ca-verification",
    ]);
    join.arg(format!("--skip-phases={phase}"));
    let Err(error) = process::output(&mut join) else {
        bail!("`kubeadm join` of the package joins as nobody, without a cluster; is it kubeadm?");
    };
    let answer = format!("{error:#}");
    if answer.contains("invalid phase name") {
        return Ok(false);
    }
    ensure!(
        answer.contains("IsPrivilegedUser"),
        "the package's kubeadm does not say whether `join` has the phase `{phase}`: {answer}"
    );
    Ok(true)
}

/// The package's kubeadm, as the user nobody, with `tools` as its root.
fn kubeadm(tools: &Tree, package: &Path) -> Result<Command> {
    let bin = package.join("bin");
    let mut command = tools.chroot(&[(&bin, "/run/package")], "setpriv")?;
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args(["--no-new-privs", "--", "/run/package/kubeadm"]);
    Ok(command)
}

fn ask(tools: &Tree, package: &Path, command: &str) -> Result<Vec<String>> {
    let mut help = kubeadm(tools, package)?;
    help.args([command, "--help"]);
    let text = process::output(&mut help).with_context(|| {
        format!(
            "asking the package's `bin/kubeadm` for the phases of `{command}`; it must be a program for this machine"
        )
    })?;
    let phases = parse(&String::from_utf8_lossy(&text));
    ensure!(
        phases.iter().any(|phase| phase == "preflight"),
        "`kubeadm {command} --help` of the package lists no phases; is `bin/kubeadm` kubeadm?"
    );
    Ok(phases)
}

/// The list stands between two lines of three backticks: a phase at the margin, its parts below it with a slash.
fn parse(help: &str) -> Vec<String> {
    let mut phases = Vec::new();
    let mut parent = String::new();
    let list = help
        .lines()
        .skip_while(|line| line.trim() != "```")
        .skip(1)
        .take_while(|line| line.trim() != "```");
    for line in list {
        let Some(name) = line.split_whitespace().next() else {
            continue;
        };
        match name.strip_prefix('/') {
            Some(part) => phases.push(format!("{parent}/{part}")),
            None => {
                parent = name.to_owned();
                phases.push(parent.clone());
            }
        }
    }
    phases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_and_their_parts_are_read_from_the_help() {
        let help = "The \"join [api-server-endpoint]\" command executes the following phases:\n```\n\
                    preflight               Run join pre-flight checks\n\
                    control-plane-prepare   Prepare the machine\n  \
                    /download-certs         Download certificates\n  \
                    /certs                  Generate the certificates\n\
                    kubelet-start           Write kubelet settings\n```\n\n\
                    Usage:\n  kubeadm join [flags]\n\nFlags:\n  --token string   a token\n";
        assert_eq!(
            parse(help),
            [
                "preflight",
                "control-plane-prepare",
                "control-plane-prepare/download-certs",
                "control-plane-prepare/certs",
                "kubelet-start"
            ]
        );
        assert!(parse("Usage:\n  frobnicate\n").is_empty());
    }
}
