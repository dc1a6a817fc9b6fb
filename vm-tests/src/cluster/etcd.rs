//! Reads members and health of the etcd of a control-plane host, over etcd's JSON gateway.
//!
//! The client is the package's kubectl: it sends any request with any certificate, and it is
//! independent of Firstlight's own etcd client.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::cluster::kubectl::kubectl;
use crate::cluster::{Cluster, Member};
use crate::host::Host;
use crate::host::process;
use crate::machine::vm::Vm;

const CLIENT_PORT: u16 = 2379;

/// The credentials that kubeadm creates for etcd's liveness probe.
const CREDENTIALS: [&str; 3] = ["ca.crt", "healthcheck-client.crt", "healthcheck-client.key"];

/// The members of the cluster as one of them lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberList {
    /// The id of the cluster.
    pub cluster: String,
    pub members: Vec<EtcdMember>,
}

/// A member. The gateway omits empty and false fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EtcdMember {
    #[serde(rename = "ID")]
    pub id: String,
    /// Empty until the member has started for the first time.
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

/// The etcd of one host, as the test host reaches it.
#[derive(Debug)]
pub struct Etcd {
    kubectl: PathBuf,
    folder: PathBuf,
    server: String,
}

impl Etcd {
    /// Forwards a port to the etcd of `member`. The credentials come from its machine, and are in
    /// `folder` until the run ends.
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
            let files = vm.shell(&format!(
                "cd /etc/kubernetes/pki/etcd && for f in {names}; do base64 -w0 $f; echo; done"
            ))?;
            for (name, line) in CREDENTIALS.iter().zip(files.lines()) {
                fs::write(folder.join(name), STANDARD.decode(line.trim())?)?;
            }
        }
        // The server's certificate is valid for 127.0.0.1 too.
        let address = cluster
            .port_forward
            .forward(0, SocketAddr::new(member.address, CLIENT_PORT))?;
        Ok(Self {
            kubectl: kubectl(host)?,
            folder,
            server: format!("https://{address}"),
        })
    }

    /// The members, as this etcd lists them.
    pub fn members(&self) -> Result<MemberList> {
        let body = self.folder.join("empty.json");
        fs::write(&body, "{}")?;
        let body = body.display().to_string();
        let text = self.request(&["create", "--raw=/v3/cluster/member/list", "-f", &body])?;
        parse(&text).with_context(|| format!("reading the answer of etcd, `{text}`"))
    }

    /// Fails with the answer of etcd unless it is healthy.
    pub fn check_health(&self) -> Result<()> {
        let text = self.request(&["get", "--raw=/health"])?;
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        anyhow::ensure!(answer["health"] == "true", "etcd answers {text}");
        Ok(())
    }

    /// The bytes that etcd has for `key`, encrypted or not.
    pub fn value(&self, key: &str) -> Result<Vec<u8>> {
        let body = self.folder.join("range.json");
        let request = serde_json::json!({ "key": STANDARD.encode(key) });
        fs::write(&body, request.to_string())?;
        let body = body.display().to_string();
        let text = self.request(&["create", "--raw=/v3/kv/range", "-f", &body])?;
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        let value = answer["kvs"][0]["value"].as_str();
        let value = value.with_context(|| format!("etcd has no `{key}`: {text}"))?;
        Ok(STANDARD.decode(value)?)
    }

    fn request(&self, arguments: &[&str]) -> Result<String> {
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
        let stdout = process::run(&mut command)?;
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }
}

fn parse(text: &str) -> Result<MemberList> {
    let answer: Answer = serde_json::from_str(text)?;
    let mut members = answer.members;
    members.sort_by(|a, b| a.peers.cmp(&b.peers));
    Ok(MemberList {
        cluster: answer.header.cluster_id,
        members,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_list_is_read_as_the_gateway_writes_it() -> Result<()> {
        let list = parse(
            r#"{"header":{"cluster_id":"1","member_id":"2","raft_term":"3"},"members":[
                {"ID":"5","peerURLs":["https://192.168.7.11:2380"],"isLearner":true},
                {"ID":"4","name":"m0","peerURLs":["https://192.168.7.10:2380"],"clientURLs":["https://192.168.7.10:2379"]}]}"#,
        )?;
        assert_eq!(list.cluster, "1");
        assert_eq!(list.members[0].name, "m0");
        assert!(!list.members[0].is_learner && list.members[1].is_learner);
        assert_eq!(list.members[1].clients, Vec::<String>::new());
        assert!(parse("{}").is_err());
        Ok(())
    }
}
