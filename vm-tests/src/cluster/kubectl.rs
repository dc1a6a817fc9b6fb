//! Runs the package's kubectl on the host against the apiserver of a guest.
//!
//! Nothing here polls: one call of kubectl costs a slow guest seconds.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use build_tools::progress::Progress;

use crate::cluster::{Cluster, Member};
use crate::host::Host;
use crate::host::artifacts::{self, Output, PACKAGE};
use crate::host::process;

/// Rewrites `admin.conf` for the host: the same authority and credentials, and every context uses
/// the forwarded port `local`, behind which is the apiserver whose certificate is for `name`.
pub fn forwarded_kubeconfig(admin: &str, local: SocketAddr, name: &str) -> Result<String> {
    let mut text = String::with_capacity(admin.len());
    let mut found = 0;
    for line in admin.lines() {
        let Some((indent, _)) = line.split_once("server: ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        // The certificate is not valid for 127.0.0.1, so the name to verify is given.
        text.push_str(&format!(
            "{indent}server: https://{local}\n{indent}tls-server-name: \"{name}\"\n"
        ));
        found += 1;
    }
    if found == 0 {
        bail!("admin.conf names no server");
    }
    Ok(text)
}

/// The package's kubectl. It is static, so it runs on the host.
pub fn kubectl(host: &Host) -> Result<PathBuf> {
    let path = artifacts::package(host.cache(), &Progress::stderr())?.join("bin/kubectl");
    if !path.is_file() {
        bail!(
            "`{}` does not exist; {PACKAGE} must be the path of an unpacked package",
            path.display()
        );
    }
    Ok(path)
}

/// A kubeconfig of the administrator for programs of the host: its server is the apiserver of
/// `member`, through a forwarded port.
pub fn kubeconfig(
    cluster: &Cluster,
    member: &Member,
    output: &Output,
    folder: &Path,
) -> Result<PathBuf> {
    let path = kubeconfig_path(member, folder);
    if !path.exists() {
        let text = forwarded_kubeconfig(
            &fs::read_to_string(output.admin())?,
            cluster.apiserver(member)?,
            &member.address.to_string(),
        )?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    }
    Ok(path)
}

fn kubeconfig_path(member: &Member, folder: &Path) -> PathBuf {
    // kubectl takes a colon for the end of a path.
    let address = member.address.to_string().replace(':', "-");
    folder.join(format!("admin-{}-{address}.conf", member.name))
}

/// The next call of [`kubeconfig`] reads the administrator's credentials again.
pub fn forget_kubeconfig(member: &Member, folder: &Path) -> Result<()> {
    match fs::remove_file(kubeconfig_path(member, folder)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// kubectl as administrator of the apiserver of `member`.
pub fn command(
    host: &Host,
    cluster: &Cluster,
    member: &Member,
    output: &Output,
    folder: &Path,
) -> Result<Command> {
    let kubeconfig = kubeconfig(cluster, member, output, folder)?;
    let mut command = Command::new(kubectl(host)?);
    command
        // Long enough for watches. A server that is gone closes the connection before.
        .arg("--request-timeout=3600s")
        // The default cache is the user's, and its key is the port, which another cluster may
        // have had.
        .arg(format!("--cache-dir={}", folder.join("kubectl").display()))
        .env("KUBECONFIG", &kubeconfig);
    Ok(command)
}

/// Runs [`command`] with `arguments`, and returns what it prints.
pub fn run(
    host: &Host,
    cluster: &Cluster,
    member: &Member,
    output: &Output,
    folder: &Path,
    arguments: &[&str],
) -> Result<String> {
    let mut command = command(host, cluster, member, output, folder)?;
    let stdout = process::run(command.args(arguments))?;
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_context_uses_the_forwarded_port() -> Result<()> {
        let admin = "- cluster:\n    server: https://192.168.7.10:6443\n  name: x\n- cluster:\n    server: https://192.168.7.11:6443\n  name: y\n";
        let local = "127.0.0.1:40000".parse()?;
        let server = "    server: https://127.0.0.1:40000\n    tls-server-name: \"192.168.7.11\"\n";
        assert_eq!(
            forwarded_kubeconfig(admin, local, "192.168.7.11")?,
            format!("- cluster:\n{server}  name: x\n- cluster:\n{server}  name: y\n")
        );
        assert!(forwarded_kubeconfig("clusters: []\n", local, "m0").is_err());
        Ok(())
    }
}
