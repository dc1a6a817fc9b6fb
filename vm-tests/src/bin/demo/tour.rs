//! What there is to see of a cluster that has formed, and how to use it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use vm_tests::artifacts::Output;
use vm_tests::cluster::Cluster;
use vm_tests::vm::Vm;

use crate::screen::say;

/// On a node: its static pods, its way to the masters, its names.
const ON_A_NODE: [&str; 3] = [
    "ls /etc/kubernetes/manifests",
    "ipvsadm -Ln",
    "cat /etc/hosts",
];

/// The administrator's kubeconfig for this host: the same authority, names and credentials, with a port of this host in
/// front of each master.
pub(crate) fn kubeconfig(cluster: &Cluster, output: &Output, folder: &Path) -> Result<PathBuf> {
    let mut doors = Vec::new();
    for member in cluster.masters() {
        doors.push((member.address.to_string(), cluster.apiserver(member)?));
    }
    let admin = output.admin();
    let text =
        fs::read_to_string(&admin).with_context(|| format!("reading `{}`", admin.display()))?;
    let path = folder.join("admin.conf");
    fs::write(&path, through_doors(&text, &doors)?)
        .with_context(|| format!("writing `{}`", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("setting the mode of `{}`", path.display()))?;
    Ok(path)
}

fn through_doors(admin: &str, doors: &[(String, SocketAddr)]) -> Result<String> {
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
            .with_context(|| format!("`{server}` is not an apiserver's URL"))?;
        let (_, door) = doors
            .iter()
            .find(|(address, _)| address == host)
            .with_context(|| format!("admin.conf names `{host}`, which is no master's address"))?;
        // The certificate is not for 127.0.0.1, and should not be.
        text += &format!("{indent}server: https://{door}\n{indent}tls-server-name: \"{host}\"\n");
    }
    Ok(text)
}

/// `kubectl get nodes`, asked from this host.
pub(crate) fn nodes(kubectl: &Path, kubeconfig: &Path, within: Duration) -> Result<()> {
    say("\n$ kubectl get nodes");
    let status = Command::new(kubectl)
        .args(["get", "nodes", "--output=wide"])
        .arg(format!("--request-timeout={}s", within.as_secs()))
        .env("KUBECONFIG", kubeconfig)
        .status()
        .with_context(|| format!("starting `{}`", kubectl.display()))?;
    if !status.success() {
        bail!("kubectl: {status}");
    }
    Ok(())
}

/// How far every host is, as a master sees it.
pub(crate) fn status(master: &Vm) -> Result<()> {
    shown(master, "firstboot status --all --timeout 60")
}

pub(crate) fn node(vm: &Vm) -> Result<()> {
    ON_A_NODE.iter().try_for_each(|script| shown(vm, script))
}

fn shown(vm: &Vm, script: &str) -> Result<()> {
    let said = vm.ok(script)?;
    say(&format!("\n{}# {script}\n{}", vm.name(), said.trim_end()));
    Ok(())
}

/// How to use it while it runs.
pub(crate) fn manual(kubectl: &Path, kubeconfig: &Path, cluster: &Cluster, machines: &[Vm]) {
    say(&format!(
        "\nthe cluster   KUBECONFIG={} {} get pods -A",
        kubeconfig.display(),
        kubectl.display()
    ));
    if cluster.masters().count() > 1 {
        say("              (`config get-contexts` lists one for each master)");
    }
    for (at, vm) in machines.iter().enumerate() {
        let heading = if at == 0 { "the consoles" } else { "" };
        let console = vm.folder().join("console.log");
        say(&format!("{heading:12}  less -R {}", console.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_master_is_asked_through_its_own_door_by_its_own_name() -> Result<()> {
        let server = |address| format!("- cluster:\n    server: \"https://{address}:6443\"\n");
        let admin = server("192.168.7.10") + &server("192.168.7.11");
        let doors = [
            ("192.168.7.10".to_owned(), "127.0.0.1:40000".parse()?),
            ("192.168.7.11".to_owned(), "127.0.0.1:40001".parse()?),
        ];
        assert_eq!(
            through_doors(&admin, &doors)?,
            "- cluster:\n    server: https://127.0.0.1:40000\n    tls-server-name: \"192.168.7.10\"\n\
             - cluster:\n    server: https://127.0.0.1:40001\n    tls-server-name: \"192.168.7.11\"\n"
        );
        assert!(through_doors(&server("192.168.7.12"), &doors).is_err());
        Ok(())
    }
}
