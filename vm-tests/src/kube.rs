//! Talking to a guest's apiserver from this host, with the package's own kubectl.
//!
//! It polls nothing: a kubectl call costs a slow guest seconds.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use imagegen::package::build::default_package;
use imagegen::progress::Progress;

use crate::artifacts::{Output, PACKAGE};
use crate::cluster::{Cluster, Member};
use crate::host::Host;
use crate::tools;

/// `admin.conf` for this host: the same authority, name and credentials, another way there.
pub fn through_door(admin: &str, door: SocketAddr) -> Result<String> {
    let mut text = String::with_capacity(admin.len());
    let mut found = 0;
    for line in admin.lines() {
        let Some((indent, server)) = line.split_once("server: ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let name = host_of(server.trim())
            .with_context(|| format!("`{server}` is not an apiserver's URL"))?;
        // The certificate is not for 127.0.0.1, and should not be.
        text.push_str(&format!(
            "{indent}server: https://{door}\n{indent}tls-server-name: {name}\n"
        ));
        found += 1;
    }
    if found != 1 {
        bail!("admin.conf names {found} servers, not one");
    }
    Ok(text)
}

fn host_of(url: &str) -> Option<&str> {
    let url = url.trim_matches(['"', '\'']);
    url.strip_prefix("https://")?
        .rsplit_once(':')
        .map(|(host, _)| host.trim_matches(['[', ']']))
}

/// The package that images are made of, as a folder.
pub fn package(host: &Host) -> Result<PathBuf> {
    match std::env::var_os(PACKAGE).filter(|path| !path.is_empty()) {
        Some(path) => Ok(PathBuf::from(path)),
        // Already there when an image was made of it.
        None => default_package(host.cache(), &Progress::stderr()),
    }
}

/// The package's own kubectl, for this host: static, so any Linux runs it.
pub fn kubectl(host: &Host) -> Result<PathBuf> {
    let path = package(host)?.join("bin/kubectl");
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
    fn the_door_changes_the_way_and_not_the_name() -> Result<()> {
        let admin =
            "clusters:\n- cluster:\n    server: https://apiserver.cluster.local:6443\n  name: x\n";
        let text = through_door(admin, "127.0.0.1:40000".parse()?)?;
        assert_eq!(
            text,
            "clusters:\n- cluster:\n    server: https://127.0.0.1:40000\n    tls-server-name: apiserver.cluster.local\n  name: x\n"
        );
        assert!(through_door("clusters: []\n", "127.0.0.1:1".parse()?).is_err());
        Ok(())
    }
}
