//! An HTTP client of etcd.
//!
//! It uses the JSON gateway that every etcd serves beside gRPC, so that a host needs no program of
//! etcd's.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::kube::client::Client;
use crate::system::files::Root;

const CREDENTIALS: [&str; 3] = [
    "/etc/kubernetes/pki/etcd/ca.crt",
    "/etc/kubernetes/pki/etcd/healthcheck-client.crt",
    "/etc/kubernetes/pki/etcd/healthcheck-client.key",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// A 64-bit number, which JSON writes as text.
    pub id: String,
    /// Empty until the member has started once.
    pub name: String,
    pub peers: Vec<String>,
    /// Client URLs: `https://192.168.7.10:2379`.
    pub clients: Vec<String>,
    pub learner: bool,
}

/// Position of one member in the raft log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Last entry that it knows to be committed.
    pub committed: u64,
    /// Last entry that it has applied.
    pub applied: u64,
}

/// The client endpoint of one member.
#[derive(Debug)]
pub struct Etcd(Client);

impl Etcd {
    pub fn new(root: &Root, endpoint: &str) -> Result<Self> {
        Client::from_files(root, endpoint, CREDENTIALS).map(Self)
    }

    pub fn base(&self) -> &str {
        self.0.base()
    }

    pub fn members(&self) -> Result<Vec<Member>> {
        let body = self.call("cluster/member/list", &json!({}))?;
        let list = body["members"]
            .as_array()
            .context("the list has no members")?;
        list.iter().map(member).collect()
    }

    /// Whether the member reports that it is healthy.
    pub fn is_healthy(&self) -> bool {
        self.health().is_ok()
    }

    /// As [`Self::is_healthy`], with the reason if it is not.
    pub fn health(&self) -> Result<()> {
        let answer = self.0.get("/health")?;
        ensure!(
            answer.body["health"] == "true",
            "{}",
            reason(&answer.body, answer.status)
        );
        Ok(())
    }

    /// Progress of this member; learners answer too.
    pub fn progress(&self) -> Result<Progress> {
        progress(&self.call("maintenance/status", &json!({}))?)
    }

    /// Adds a learner.
    pub fn add_learner(&self, peer: &str) -> Result<()> {
        self.call(
            "cluster/member/add",
            &json!({ "peerURLs": [peer], "isLearner": true }),
        )
        .map(|_| ())
    }

    /// Promotes a learner to a voting member. etcd refuses until it has acknowledged nine tenths of
    /// the log.
    pub fn promote(&self, id: &str) -> Result<()> {
        self.call("cluster/member/promote", &json!({ "ID": id }))
            .map(|_| ())
    }

    /// Sets the peer URL of the member named `name`.
    pub fn set_peer(&self, name: &str, peer: &str) -> Result<()> {
        let members = self.members()?;
        let member = members
            .iter()
            .find(|member| member.name == name)
            .with_context(|| format!("no member is named {name}"))?;
        if member.peers == [peer] {
            return Ok(());
        }
        self.call(
            "cluster/member/update",
            &json!({ "ID": member.id, "peerURLs": [peer] }),
        )
        .map(|_| ())
    }

    pub fn remove(&self, id: &str) -> Result<()> {
        self.call("cluster/member/remove", &json!({ "ID": id }))
            .map(|_| ())
    }

    fn call(&self, what: &str, body: &Value) -> Result<Value> {
        let answer = self.0.send("POST", &format!("/v3/{what}"), body)?;
        ensure!(
            answer.status == 200,
            "{}",
            reason(&answer.body, answer.status)
        );
        Ok(answer.body)
    }
}

/// The ids of the healthy members, each requested at its own address.
pub fn healthy(root: &Root, members: &[Member]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for member in members {
        let Some(endpoint) = member
            .clients
            .first()
            .and_then(|url| url.strip_prefix("https://"))
        else {
            continue;
        };
        if Etcd::new(root, endpoint)?.is_healthy() {
            found.push(member.id.clone());
        }
    }
    Ok(found)
}

fn member(value: &Value) -> Result<Member> {
    let texts = |key: &str| -> Vec<String> {
        let list = value[key].as_array().into_iter().flatten();
        list.filter_map(|one| one.as_str().map(str::to_owned))
            .collect()
    };
    Ok(Member {
        id: value["ID"]
            .as_str()
            .context("a member has no ID")?
            .to_owned(),
        // The gateway omits empty and false fields.
        name: value["name"].as_str().unwrap_or_default().to_owned(),
        peers: texts("peerURLs"),
        clients: texts("clientURLs"),
        learner: value["isLearner"].as_bool().unwrap_or(false),
    })
}

fn progress(status: &Value) -> Result<Progress> {
    // 64-bit numbers, which JSON writes as text; the gateway omits zeros.
    let index = |key: &str| match &status[key] {
        Value::Null => Ok(0),
        value => {
            let number = value.as_str().and_then(|text| text.parse().ok());
            number.with_context(|| format!("its status has {key} {value}"))
        }
    };
    Ok(Progress {
        committed: index("raftIndex")?,
        applied: index("raftAppliedIndex")?,
    })
}

fn reason(body: &Value, status: u16) -> String {
    let text = ["message", "error", "reason"]
        .iter()
        .find_map(|key| body[*key].as_str());
    format!(
        "{status}: {}",
        text.or(body.as_str()).unwrap_or("no reason given").trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_is_parsed_from_the_gateways_json() {
        let read =
            member(&json!({"ID": "9372538179322589801", "peerURLs": ["https://10.0.0.3:2380"], "isLearner": true}))
                .unwrap();
        assert_eq!(
            (read.id.as_str(), read.name.as_str(), read.learner),
            ("9372538179322589801", "", true)
        );
        assert!(member(&json!({"name": "m0"})).is_err());
    }

    #[test]
    fn progress_is_parsed_from_the_gateways_json() {
        let status = json!({"version": "3.5.16", "raftIndex": "547", "isLearner": true});
        let read = progress(&status).unwrap();
        assert_eq!((read.committed, read.applied), (547, 0));
        let status = json!({"raftIndex": "547", "raftAppliedIndex": "546"});
        assert_eq!(progress(&status).unwrap().applied, 546);
        let error = progress(&json!({"raftIndex": -1})).unwrap_err();
        assert_eq!(error.to_string(), "its status has raftIndex -1");
    }
}
