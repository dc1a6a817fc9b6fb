//! Shows a cluster that has formed, and how to use it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use vm_tests::cluster::{Cluster, Member, ssh};
use vm_tests::host::artifacts::Output;
use vm_tests::machine::vm::Vm;

use crate::screen::say;

/// Shown on a worker: its static pods, its IPVS table and its host names.
const WORKER_COMMANDS: [&str; 3] = [
    "cat /etc/kubernetes/manifests/*",
    "ipvsadm -Ln",
    "cat /etc/hosts",
];

/// Writes the administrator's kubeconfig for the host: the same authority, names and credentials,
/// with a forwarded port for each control-plane host.
pub(crate) fn kubeconfig(cluster: &Cluster, output: &Output, folder: &Path) -> Result<PathBuf> {
    let mut forwards = Vec::new();
    for member in cluster.control_plane() {
        forwards.push((member.address.to_string(), cluster.apiserver(member)?));
    }
    let admin = output.admin();
    let text =
        fs::read_to_string(&admin).with_context(|| format!("reading `{}`", admin.display()))?;
    let path = folder.join("admin.conf");
    fs::write(&path, forwarded_kubeconfig(&text, &forwards)?)
        .with_context(|| format!("writing `{}`", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("setting the mode of `{}`", path.display()))?;
    Ok(path)
}

fn forwarded_kubeconfig(admin: &str, forwards: &[(String, SocketAddr)]) -> Result<String> {
    let mut text = String::with_capacity(admin.len());
    for line in admin.lines() {
        let Some((indent, server)) = line.split_once("server: ") else {
            text += &format!("{line}\n");
            continue;
        };
        let host = server
            .trim_matches(['"', '\''])
            .strip_prefix("https://")
            .and_then(|rest| rest.rsplit_once(':'))
            .map(|(host, _)| host.trim_matches(['[', ']']))
            .with_context(|| format!("`{server}` is not the URL of an apiserver"))?;
        let (_, local) = forwards
            .iter()
            .find(|(address, _)| address == host)
            .with_context(|| {
                format!(
                    "admin.conf names `{host}`, which is not the address of a control-plane host"
                )
            })?;
        // The certificate is not valid for 127.0.0.1, so the name to verify is given.
        text += &format!("{indent}server: https://{local}\n{indent}tls-server-name: \"{host}\"\n");
    }
    Ok(text)
}

/// Waits until all pods are Ready, and lists nodes and pods, with kubectl on the host.
pub(crate) fn cluster(kubectl: &Path, kubeconfig: &Path, within: Duration) -> Result<()> {
    let within = within.as_secs();
    let run = |words: &[&str], limit: String| -> Result<()> {
        say(&format!("\n$ kubectl {}", words.join(" ")));
        let status = Command::new(kubectl)
            .args(words)
            .arg(limit)
            .env("KUBECONFIG", kubeconfig)
            .status()
            .with_context(|| format!("starting `{}`", kubectl.display()))?;
        if !status.success() {
            bail!("kubectl: {status}");
        }
        Ok(())
    };
    let wait = [
        "wait",
        "--for=condition=Ready",
        "pods",
        "--all",
        "--all-namespaces",
    ];
    run(&wait, format!("--timeout={within}s"))?;
    for words in [
        &["get", "nodes", "--output=wide"][..],
        &["get", "pods", "--all-namespaces", "--output=wide"],
    ] {
        run(words, format!("--request-timeout={within}s"))?;
    }
    Ok(())
}

/// Shows the status of all hosts, as a control-plane host reports it.
pub(crate) fn status(master: &Vm) -> Result<()> {
    show_command(master, "firstboot status --all --timeout 60")
}

/// Shows a worker.
pub(crate) fn node(vm: &Vm) -> Result<()> {
    WORKER_COMMANDS
        .iter()
        .try_for_each(|script| show_command(vm, script))
}

/// Logs in to each machine with OpenSSH's client, and tells the commands that work.
pub(crate) fn logins<'a>(
    cluster: &Cluster,
    machines: impl Iterator<Item = (&'a Member, &'a Vm)>,
    key: &Path,
    folder: &Path,
) -> Result<()> {
    for (at, (member, vm)) in machines.enumerate() {
        let arguments = ssh::arguments(cluster, member, vm, key, folder)?;
        let name = ssh::run(&arguments, "hostname")?;
        if name.trim() != member.name {
            bail!("ssh to `{}` reaches `{}`", member.name, name.trim());
        }
        let heading = if at == 0 { "\nssh" } else { "" };
        let width = 12 + heading.matches('\n').count();
        say(&format!("{heading:width$}  ssh {}", arguments.join(" ")));
    }
    Ok(())
}

fn show_command(vm: &Vm, script: &str) -> Result<()> {
    let output = vm.shell(script)?;
    say(&format!("\n{}# {script}\n{}", vm.name(), output.trim_end()));
    Ok(())
}

/// Prints how to use the running cluster.
pub(crate) fn manual(kubectl: &Path, kubeconfig: &Path, cluster: &Cluster, machines: &[Vm]) {
    say(&format!(
        "\ncluster       KUBECONFIG={} {} get pods -A",
        kubeconfig.display(),
        kubectl.display()
    ));
    if cluster.control_plane().count() > 1 {
        say("              (`config get-contexts` lists a context for each control-plane host)");
    }
    for (at, vm) in machines.iter().enumerate() {
        let heading = if at == 0 { "consoles" } else { "" };
        let console = vm.folder().join("console.log");
        say(&format!("{heading:12}  less -R {}", console.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_context_uses_its_own_forwarded_port() -> Result<()> {
        let server = |address| format!("- cluster:\n    server: \"https://{address}:6443\"\n");
        let admin = server("192.168.7.10") + &server("192.168.7.11");
        let forwards = [
            ("192.168.7.10".to_owned(), "127.0.0.1:40000".parse()?),
            ("192.168.7.11".to_owned(), "127.0.0.1:40001".parse()?),
        ];
        assert_eq!(
            forwarded_kubeconfig(&admin, &forwards)?,
            "- cluster:\n    server: https://127.0.0.1:40000\n    tls-server-name: \"192.168.7.10\"\n\
             - cluster:\n    server: https://127.0.0.1:40001\n    tls-server-name: \"192.168.7.11\"\n"
        );
        assert!(forwarded_kubeconfig(&server("192.168.7.12"), &forwards).is_err());
        Ok(())
    }
}
