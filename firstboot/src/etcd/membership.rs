//! etcd's members: asking, and deciding whether this host may join.
//!
//! Over the JSON gateway that every etcd serves beside gRPC, so that no program of etcd's is needed on the host. A new
//! member comes as a learner: it has no vote until it has caught up, so that a host that dies while joining, at whatever
//! moment, takes no quorum with it; and etcd itself admits one learner at a time.

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
    /// A 64-bit number; JSON carries it as text.
    pub id: String,
    /// Empty until it has started for the first time.
    pub name: String,
    pub peers: Vec<String>,
    /// Where clients ask it: `https://192.168.7.10:2379`.
    pub clients: Vec<String>,
    pub learner: bool,
}

/// What this host has to do about its member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Add it.
    Join,
    /// It was added and runs as a learner: go on there.
    Resume,
    /// It votes already.
    Joined,
    /// It was left by a try that did not come to an end: remove it first.
    Remove(String),
    /// Not now, because of this.
    Wait(String),
}

/// May this host, whose member has the peer URL `own`, join now?
///
/// `healthy`: ids of the members that said so themselves. `running`: etcd runs here. `data`: this host has the data of a
/// member that voted.
pub fn verdict(
    members: &[Member],
    own: &str,
    healthy: &[String],
    running: bool,
    data: bool,
) -> Verdict {
    let is_own = |member: &&Member| member.peers.iter().any(|peer| peer == own);
    let others: Vec<_> = members.iter().filter(|member| !is_own(member)).collect();
    let ill = others.iter().find_map(|member| {
        let who = || member.peers.join(", ");
        if member.learner {
            Some(format!("member {} is still a learner", who()))
        } else if member.name.is_empty() || member.clients.is_empty() {
            Some(format!("member {} has not started yet", who()))
        } else if !healthy.contains(&member.id) {
            Some(format!("member {} ({}) is not healthy", member.name, who()))
        } else {
            None
        }
    });
    let Some(member) = members.iter().find(is_own) else {
        return ill.map_or(Verdict::Join, Verdict::Wait);
    };
    if member.learner {
        // Without a vote it can always go. One that runs is caught up with, whatever the others do.
        return if running {
            Verdict::Resume
        } else {
            Verdict::Remove(member.id.clone())
        };
    }
    if data && !member.name.is_empty() {
        return Verdict::Joined;
    }
    // It votes, and what it had voted is gone. Removing it needs a majority of all that vote, itself among them, and the
    // rest must have one among themselves.
    let voters = members.iter().filter(|member| !member.learner).count();
    let well = others
        .iter()
        .filter(|member| !member.learner && healthy.contains(&member.id))
        .count();
    if well > voters / 2 {
        Verdict::Remove(member.id.clone())
    } else {
        Verdict::Wait(format!(
            "the member of this host ({own}) lost its data; removal needs a quorum ({well}/{voters} healthy)"
        ))
    }
}

/// How far one member is in the log that all of them share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The last entry it knows a majority to have.
    pub committed: u64,
    /// The last entry it has carried out.
    pub applied: u64,
}

/// One etcd that answers clients.
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

    /// Does it say that it can serve?
    pub fn is_healthy(&self) -> bool {
        self.health().is_ok()
    }

    /// As [`Self::is_healthy`], with the reason why not.
    pub fn health(&self) -> Result<()> {
        let answer = self.0.get("/health")?;
        ensure!(
            answer.body["health"] == "true",
            "{}",
            said(&answer.body, answer.status)
        );
        Ok(())
    }

    /// Of the member that is asked; learners answer too.
    pub fn progress(&self) -> Result<Progress> {
        progress(&self.call("maintenance/status", &json!({}))?)
    }

    /// Adds a member without a vote.
    pub fn add_learner(&self, peer: &str) -> Result<()> {
        self.call(
            "cluster/member/add",
            &json!({ "peerURLs": [peer], "isLearner": true }),
        )
        .map(|_| ())
    }

    /// Gives it its vote. etcd refuses while it has acknowledged less than nine tenths of the log.
    pub fn promote(&self, id: &str) -> Result<()> {
        self.call("cluster/member/promote", &json!({ "ID": id }))
            .map(|_| ())
    }

    /// Gives the member called `name` the one peer URL `peer`, unless it has it.
    pub fn set_peer(&self, name: &str, peer: &str) -> Result<()> {
        let members = self.members()?;
        let member = members
            .iter()
            .find(|member| member.name == name)
            .with_context(|| format!("none of its members is called {name}"))?;
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
            said(&answer.body, answer.status)
        );
        Ok(answer.body)
    }
}

/// The ids of those members that say they are healthy, each asked at its own address.
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
        // What is empty or false the gateway leaves out.
        name: value["name"].as_str().unwrap_or_default().to_owned(),
        peers: texts("peerURLs"),
        clients: texts("clientURLs"),
        learner: value["isLearner"].as_bool().unwrap_or(false),
    })
}

fn progress(status: &Value) -> Result<Progress> {
    // 64-bit numbers, which JSON carries as text; the gateway leaves out those that are 0.
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

fn said(body: &Value, status: u16) -> String {
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

    const OWN: &str = "https://10.0.0.3:2380";

    fn m(id: &str, started: bool, learner: bool) -> Member {
        let url = |port: u16| format!("https://10.0.0.{id}:{port}");
        Member {
            id: id.into(),
            name: if started {
                format!("m{id}")
            } else {
                String::new()
            },
            peers: vec![url(2380)],
            clients: if started { vec![url(2379)] } else { Vec::new() },
            learner,
        }
    }

    /// Members, who is healthy, whether etcd runs here, whether a voter's data is here.
    fn judge(members: &[Member], healthy: &str, running: bool, data: bool) -> String {
        let healthy: Vec<_> = healthy.chars().map(String::from).collect();
        match verdict(members, OWN, &healthy, running, data) {
            Verdict::Wait(why) => why,
            verdict => format!("{verdict:?}"),
        }
    }

    #[test]
    fn a_host_joins_only_a_whole_cluster() {
        let (one, two) = (m("1", true, false), m("2", true, false));
        assert_eq!(judge(std::slice::from_ref(&one), "1", false, false), "Join");
        assert_eq!(
            judge(&[one.clone(), two.clone()], "12", false, false),
            "Join"
        );
        let said = judge(&[one.clone(), two], "1", false, false);
        assert!(
            said.contains("m2 (https://10.0.0.2:2380) is not healthy"),
            "{said}"
        );
        let said = judge(&[one.clone(), m("2", false, false)], "1", false, false);
        assert!(said.contains("has not started"), "{said}");
        for started in [true, false] {
            let said = judge(&[one.clone(), m("2", started, true)], "12", false, false);
            assert!(said.contains("learner"), "{said}");
        }
    }

    #[test]
    fn own_learner_resumes_if_running_else_is_removed() {
        for started in [true, false] {
            let members = [m("1", true, false), m("3", started, true)];
            assert_eq!(judge(&members, "1", true, false), "Resume");
            assert_eq!(judge(&members, "1", false, false), "Remove(\"3\")");
        }
    }

    #[test]
    fn a_voter_with_its_data_is_never_removed() {
        let members = [
            m("1", true, false),
            m("2", true, false),
            m("3", true, false),
        ];
        for healthy in ["", "1", "12", "123"] {
            assert_eq!(judge(&members, healthy, false, true), "Joined", "{healthy}");
        }
    }

    #[test]
    fn voter_without_data_is_removed_only_with_quorum() {
        let three = [
            m("1", true, false),
            m("2", true, false),
            m("3", true, false),
        ];
        assert_eq!(judge(&three, "12", false, false), "Remove(\"3\")");
        assert!(judge(&three, "1", false, false).contains("(1/3 healthy)"));
        // Of two, the one that is left is no majority: etcd could not even agree to remove.
        let two = [m("1", true, false), m("3", false, false)];
        assert!(judge(&two, "1", false, true).contains("(1/2 healthy)"));
    }

    #[test]
    fn a_member_is_read_as_the_gateway_writes_it() {
        let read =
            member(&json!({"ID": "9372538179322589801", "peerURLs": [OWN], "isLearner": true}))
                .unwrap();
        assert_eq!(
            (read.id.as_str(), read.name.as_str(), read.learner),
            ("9372538179322589801", "", true)
        );
        assert!(member(&json!({"name": "m0"})).is_err());
    }

    #[test]
    fn progress_is_read_as_the_gateway_writes_it() {
        let status = json!({"version": "3.5.16", "raftIndex": "547", "isLearner": true});
        let read = progress(&status).unwrap();
        assert_eq!((read.committed, read.applied), (547, 0));
        let status = json!({"raftIndex": "547", "raftAppliedIndex": "546"});
        assert_eq!(progress(&status).unwrap().applied, 546);
        let error = progress(&json!({"raftIndex": -1})).unwrap_err();
        assert_eq!(error.to_string(), "its status has raftIndex -1");
    }
}
