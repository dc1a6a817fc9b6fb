//! Asking each master's etcd who its members are, over the JSON gateway that it serves beside gRPC.
//!
//! With the package's kubectl as the client: it sends any request with any certificate, and is none of our code.

use std::fs;
use std::net::SocketAddrV4;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::cluster::{Cluster, Member};
use crate::host::Host;
use crate::kube::kubectl;
use crate::tools;
use crate::vm::Vm;

const CLIENTS: u16 = 2379;

/// What kubeadm made for those who ask whether etcd is well.
const CREDENTIALS: [&str; 3] = ["ca.crt", "healthcheck-client.crt", "healthcheck-client.key"];

/// The cluster as one etcd knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The same in every member of one cluster.
    pub cluster: String,
    pub members: Vec<EtcdMember>,
}

/// What is empty or false the gateway leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EtcdMember {
    #[serde(rename = "ID")]
    pub id: String,
    /// Empty until it has started for the first time.
    pub name: String,
    #[serde(rename = "peerURLs")]
    pub peers: Vec<String>,
    #[serde(rename = "clientURLs")]
    pub clients: Vec<String>,
    pub is_learner: bool,
}

#[derive(Debug, Deserialize)]
struct Answer {
    header: Header,
    #[serde(default)]
    members: Vec<EtcdMember>,
}

#[derive(Debug, Deserialize)]
struct Header {
    cluster_id: String,
}

/// One member's etcd, seen from this host.
#[derive(Debug)]
pub struct Etcd {
    kubectl: PathBuf,
    folder: PathBuf,
    server: String,
}

impl Etcd {
    /// Opens a way to the etcd of `member`; the credentials come from its machine, and are kept in `folder` until the run ends.
    pub fn of(
        host: &Host,
        cluster: &Cluster,
        member: &Member,
        vm: &Vm,
        folder: &Path,
    ) -> Result<Self> {
        let folder = folder.join(format!("etcd-{}", member.name));
        if !folder.exists() {
            fs::create_dir(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
            let names = CREDENTIALS.join(" ");
            let files = vm.ok(&format!(
                "cd /etc/kubernetes/pki/etcd && for f in {names}; do base64 -w0 $f; echo; done"
            ))?;
            for (name, line) in CREDENTIALS.iter().zip(files.lines()) {
                fs::write(folder.join(name), STANDARD.decode(line.trim())?)?;
            }
        }
        // The server's certificate is for 127.0.0.1 too.
        let door = cluster
            .door
            .forward(0, SocketAddrV4::new(member.address, CLIENTS))?;
        Ok(Self {
            kubectl: kubectl(host)?,
            folder,
            server: format!("https://{door}"),
        })
    }

    /// The members as this one knows them.
    pub fn view(&self) -> Result<View> {
        let body = self.folder.join("empty.json");
        fs::write(&body, "{}")?;
        let body = body.display().to_string();
        let text = self.ask(&["create", "--raw=/v3/cluster/member/list", "-f", &body])?;
        parse(&text).with_context(|| format!("reading etcd's answer `{text}`"))
    }

    /// Fails with etcd's own words unless it says that it can serve.
    pub fn is_healthy(&self) -> Result<()> {
        let text = self.ask(&["get", "--raw=/health"])?;
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        anyhow::ensure!(answer["health"] == "true", "etcd says {text}");
        Ok(())
    }

    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut command = Command::new(&self.kubectl);
        command
            .args(arguments)
            .arg(format!("--server={}", self.server))
            .arg(format!("--certificate-authority={}", path(CREDENTIALS[0])))
            .arg(format!("--client-certificate={}", path(CREDENTIALS[1])))
            .arg(format!("--client-key={}", path(CREDENTIALS[2])))
            .arg("--request-timeout=120s")
            .env("KUBECONFIG", "/dev/null");
        let stdout = tools::run(&mut command)?;
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }
}

fn parse(text: &str) -> Result<View> {
    let answer: Answer = serde_json::from_str(text)?;
    let mut members = answer.members;
    members.sort_by(|a, b| a.peers.cmp(&b.peers));
    Ok(View {
        cluster: answer.header.cluster_id,
        members,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_read_as_the_gateway_writes_it() -> Result<()> {
        let view = parse(
            r#"{"header":{"cluster_id":"1","member_id":"2","raft_term":"3"},"members":[
                {"ID":"5","peerURLs":["https://192.168.7.11:2380"],"isLearner":true},
                {"ID":"4","name":"m0","peerURLs":["https://192.168.7.10:2380"],"clientURLs":["https://192.168.7.10:2379"]}]}"#,
        )?;
        assert_eq!(view.cluster, "1");
        assert_eq!(view.members[0].name, "m0");
        assert!(!view.members[0].is_learner && view.members[1].is_learner);
        assert_eq!(view.members[1].clients, Vec::<String>::new());
        assert!(parse("{}").is_err());
        Ok(())
    }
}
