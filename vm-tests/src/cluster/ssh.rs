//! A login by OpenSSH's client: a key, the machine's host keys, and the command.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::{Cluster, Member};
use crate::host::process;
use crate::machine::vm::Vm;

const PORT: u16 = 22;

/// Makes a key pair in `folder` unless it is there, and returns the path of the private half.
pub fn key(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("ssh-key");
    if !path.exists() {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "demo@firstlight"]);
        process::run(keygen.arg("-f").arg(&path)).context("making an SSH key")?;
    }
    Ok(path)
}

/// A private copy of `key` that ssh accepts: version control does not keep modes.
pub fn private_copy(key: &Path, folder: &Path) -> Result<PathBuf> {
    let path = folder.join("ssh-key");
    fs::copy(key, &path).with_context(|| format!("copying `{}`", key.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

/// Writes the topology with one more key that may log in to `to`; `false` if the topology has no
/// key, and so no host runs a login server.
pub fn add_key(topology: &Path, key: &Path, to: &Path) -> Result<bool> {
    let doing = || format!("reading `{}`", topology.display());
    let text = fs::read_to_string(topology).with_context(doing)?;
    let public = key.with_extension("pub");
    let public =
        fs::read_to_string(&public).with_context(|| format!("reading `{}`", public.display()))?;
    let mut value: serde_yaml::Value = serde_yaml::from_str(&text).with_context(doing)?;
    let Some(serde_yaml::Value::Sequence(keys)) = value.get_mut("ssh_authorized_keys") else {
        return Ok(false);
    };
    keys.push(public.trim().into());
    // Relative to the topology's folder, which is another one now.
    if let Some(package) = value.get_mut("package")
        && let Some(path) = package.as_str()
    {
        let folder = fs::canonicalize(topology.parent().unwrap_or(Path::new("")))?;
        *package = folder.join(path).display().to_string().into();
    }
    fs::write(to, serde_yaml::to_string(&value)?)
        .with_context(|| format!("writing `{}`", to.display()))?;
    Ok(true)
}

/// The arguments of `ssh` for `member`, up to the user's command. The machine's host keys go to a
/// file in `folder`, so that the client trusts this machine only.
pub fn arguments(
    cluster: &Cluster,
    member: &Member,
    vm: &Vm,
    key: &Path,
    folder: &Path,
) -> Result<Vec<String>> {
    let local = cluster
        .port_forward
        .forward(0, SocketAddr::new(member.address, PORT))?;
    let known = folder.join(format!("{}.known-hosts", member.name));
    let keys = vm.shell("cat /etc/ssh/ssh_host_*_key.pub")?;
    fs::write(&known, known_hosts(local, &keys))?;
    let option = |name: &str, value: &str| ["-o".to_owned(), format!("{name}={value}")];
    let mut list = vec!["-i".to_owned(), key.display().to_string()];
    list.extend(["-p".to_owned(), local.port().to_string()]);
    list.extend(option("IdentitiesOnly", "yes"));
    list.extend(option("UserKnownHostsFile", &known.display().to_string()));
    list.extend(option("StrictHostKeyChecking", "yes"));
    list.push(format!("root@{}", local.ip()));
    Ok(list)
}

fn known_hosts(local: SocketAddr, keys: &str) -> String {
    let lines = keys.lines().filter(|line| !line.trim().is_empty());
    let lines = lines.map(|line| format!("[{}]:{} {line}\n", local.ip(), local.port()));
    lines.collect()
}

/// Runs `command` on the machine and returns what it printed. Never asks anything.
pub fn run(arguments: &[String], command: &str) -> Result<String> {
    run_with(arguments, command, Stdio::null(), None)
}

/// As [`run`], with a standard input and a time limit.
pub fn run_with(
    arguments: &[String],
    command: &str,
    stdin: Stdio,
    within: Option<Duration>,
) -> Result<String> {
    // timeout(1): 0 is no limit.
    let limit = within.map_or(0, |within| within.as_secs());
    let output = Command::new("timeout")
        .args([&limit.to_string(), "ssh", "-F", "none"])
        .args(["-o", "BatchMode=yes"])
        .args(arguments)
        .arg(command)
        .stdin(stdin)
        .output()
        .context("running ssh (Debian: openssh-client)")?;
    if !output.status.success() {
        bail!(
            "ssh {}: {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout).context("reading what the command printed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topology_gets_one_more_key() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let key = dir.path().join("ssh-key");
        fs::write(key.with_extension("pub"), "ssh-ed25519 AAAA demo\n")?;
        let (from, to) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
        fs::write(
            &from,
            "name: a\npackage: kube.tar\nssh_authorized_keys: [ssh-rsa BBBB me]\n",
        )?;
        assert!(add_key(&from, &key, &to)?);
        let text = fs::read_to_string(&to)?;
        assert!(
            text.contains("- ssh-rsa BBBB me\n- ssh-ed25519 AAAA demo\n"),
            "{text}"
        );
        let folder = fs::canonicalize(dir.path())?;
        assert!(
            text.contains(&format!("package: {}/kube.tar", folder.display())),
            "{text}"
        );
        fs::write(&from, "name: a\n")?;
        assert!(!add_key(&from, &key, &to)?);
        Ok(())
    }

    #[test]
    fn host_keys_are_of_the_forwarded_port() -> Result<()> {
        let known = known_hosts("127.0.0.1:40022".parse()?, "ssh-ed25519 AAAA root@m0\n");
        assert_eq!(known, "[127.0.0.1]:40022 ssh-ed25519 AAAA root@m0\n");
        Ok(())
    }
}
