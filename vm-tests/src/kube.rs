//! Talking to a guest's apiserver from this host, with the package's own kubectl.
//!
//! It polls nothing: a kubectl call costs a slow guest seconds.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use build_tools::progress::Progress;

use crate::artifacts::{self, Output, PACKAGE};
use crate::cluster::{Cluster, Member};
use crate::host::Host;
use crate::tools;

/// `admin.conf` for this host: the same authority and credentials, and every context leads through `door` to the one
/// master whose certificate is for `name`.
pub fn through_door(admin: &str, door: SocketAddr, name: &str) -> Result<String> {
    let mut text = String::with_capacity(admin.len());
    let mut found = 0;
    for line in admin.lines() {
        let Some((indent, _)) = line.split_once("server: ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        // The certificate is not for 127.0.0.1, and should not be.
        text.push_str(&format!(
            "{indent}server: https://{door}\n{indent}tls-server-name: {name}\n"
        ));
        found += 1;
    }
    if found == 0 {
        bail!("admin.conf names no server");
    }
    Ok(text)
}

/// The package's own kubectl, for this host: static, so any Linux runs it.
pub fn kubectl(host: &Host) -> Result<PathBuf> {
    let path = artifacts::package(host.cache(), &Progress::stderr())?.join("bin/kubectl");
    if !path.is_file() {
        bail!(
            "`{}` is not there; {PACKAGE} must name a package that is a folder",
            path.display()
        );
    }
    Ok(path)
}

/// Asks a member's apiserver as the administrator.
pub fn ask(
    host: &Host,
    cluster: &Cluster,
    member: &Member,
    output: &Output,
    folder: &Path,
    arguments: &[&str],
) -> Result<String> {
    let kubeconfig = folder.join(format!("admin-{}-{}.conf", member.name, member.address));
    if !kubeconfig.exists() {
        let text = through_door(
            &fs::read_to_string(output.admin())?,
            cluster.apiserver(member)?,
            &member.address.to_string(),
        )?;
        fs::write(&kubeconfig, text)?;
        fs::set_permissions(&kubeconfig, fs::Permissions::from_mode(0o600))?;
    }
    let mut command = Command::new(kubectl(host)?);
    command
        .args(arguments)
        // For watches; a server that is gone ends them sooner.
        .arg("--request-timeout=3600s")
        // By default it is the user's, and keyed by a port that another cluster may have had.
        .arg(format!("--cache-dir={}", folder.join("kubectl").display()))
        .env("KUBECONFIG", &kubeconfig);
    let stdout = tools::run(&mut command)?;
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_context_leads_through_the_door_to_the_named_master() -> Result<()> {
        let admin = "- cluster:\n    server: https://192.168.7.10:6443\n  name: x\n- cluster:\n    server: https://192.168.7.11:6443\n  name: y\n";
        let door = "127.0.0.1:40000".parse()?;
        let server = "    server: https://127.0.0.1:40000\n    tls-server-name: 192.168.7.11\n";
        assert_eq!(
            through_door(admin, door, "192.168.7.11")?,
            format!("- cluster:\n{server}  name: x\n- cluster:\n{server}  name: y\n")
        );
        assert!(through_door("clusters: []\n", door, "m0").is_err());
        Ok(())
    }
}
