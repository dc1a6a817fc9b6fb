//! `firstboot status --all`: every host of the cluster is asked, and one table says how far each is.
//!
//! From a master only: a node has no certificate that opens the others' status.

use std::io::{Write, stdout};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;
use userdata::contract::{NODE_FILE, STATUS_PORT};
use userdata::node_config::{NodeConfig, Role};

use super::{Phase, Told, role_name, table};
use crate::kube::client::{CLOSED, Client};
use crate::system::files::Root;
use crate::wait::endpoint;

const ADMIN: &str = "/etc/kubernetes/admin.conf";
/// At once: enough that hosts which do not answer cost little, few enough for a master with a thousand hosts.
const ASKED_AT_ONCE: usize = 64;
/// A thread here has one TLS handshake to do.
const STACK: usize = 512 << 10;

/// A host of the topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) address: IpAddr,
}

/// What it said, or why it said nothing.
pub(crate) type Answer = std::result::Result<Told, String>;

/// Asks all hosts, each for at most `within`, and prints what they say. `true` if all are ready.
pub fn print(root: &Root, json: bool, within: Duration) -> Result<bool> {
    let node = node_file(root)?;
    let rows = ask_all(root, &node, within)?;
    let ready = rows.iter().all(|(_, answer)| is_ready(answer));
    let text = if json {
        let list: Vec<_> = rows
            .iter()
            .map(|(host, answer)| Line::new(host, answer))
            .collect();
        serde_json::to_string_pretty(&list).context("writing the answers")? + "\n"
    } else {
        table::text(&rows)
    };
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())
        .context("printing the answers")?;
    Ok(ready)
}

/// One host in `--json`: `status` or `error`.
#[derive(Serialize)]
struct Line<'a> {
    host: &'a str,
    role: &'static str,
    address: IpAddr,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    told: Option<&'a Told>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn new(host: &'a Host, answer: &'a Answer) -> Self {
        Self {
            host: &host.name,
            role: role_name(Some(host.role)),
            address: host.address,
            told: answer.as_ref().ok(),
            error: answer.as_ref().err().map(String::as_str),
        }
    }
}

pub(crate) fn is_ready(answer: &Answer) -> bool {
    matches!(answer, Ok(told) if told.status.phase == Phase::Ready)
}

fn node_file(root: &Root) -> Result<NodeConfig> {
    let bytes = root.read(NODE_FILE)?.with_context(|| {
        format!("`{NODE_FILE}` is missing: this machine has no document of a cluster, or not yet")
    })?;
    let text = String::from_utf8(bytes).with_context(|| format!("reading `{NODE_FILE}`"))?;
    let node = yaml::parse_redacted::<NodeConfig>(NODE_FILE, &text)
        .map_err(|found| anyhow!("{}", found.lines().collect::<Vec<_>>().join("\n")))?
        .value;
    if node.role == Role::Node {
        let masters: Vec<_> = node.masters.iter().map(|one| one.name.as_str()).collect();
        bail!(
            "`{}` is a node, and only masters may ask the others; run this on {}",
            node.name,
            masters.join(", ")
        );
    }
    Ok(node)
}

/// All hosts that the node file knows: the masters in their order, then the others.
fn hosts(node: &NodeConfig) -> Vec<Host> {
    let mut hosts: Vec<Host> = (0..)
        .zip(&node.masters)
        .map(|(number, master)| Host {
            name: master.name.clone(),
            role: if number == 0 {
                Role::Master0
            } else {
                Role::Master
            },
            address: master.address,
        })
        .collect();
    for entry in &node.hosts {
        // The full name comes first, the host's own last; one with several addresses has several entries.
        let Some(name) = entry.names.last() else {
            continue;
        };
        if hosts.iter().all(|host| host.name != *name) {
            hosts.push(Host {
                name: name.clone(),
                role: Role::Node,
                address: entry.address,
            });
        }
    }
    hosts
}

fn ask_all(root: &Root, node: &NodeConfig, within: Duration) -> Result<Vec<(Host, Answer)>> {
    let hosts = hosts(node);
    let next = AtomicUsize::new(0);
    let ask_next = || {
        let mut answers = Vec::new();
        while let Some((at, host)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            hosts.get(at).map(|host| (at, host))
        } {
            let answer = if host.name == node.name {
                own(root)
            } else {
                ask(root, host, within)
            };
            answers.push((at, answer.map_err(|error| format!("{error:#}"))));
        }
        answers
    };
    let mut answers = thread::scope(|scope| {
        let threads = (0..hosts.len().min(ASKED_AT_ONCE)).map(|_| {
            thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, ask_next)
                .context("starting a thread")
        });
        let threads = threads.collect::<Result<Vec<_>>>()?;
        let joined = threads.into_iter().map(|thread| {
            thread
                .join()
                .map_err(|_| anyhow!("a thread that asked a host has panicked"))
        });
        joined.collect::<Result<Vec<_>>>()
    })?
    .concat();
    answers.sort_by_key(|(at, _)| *at);
    Ok(hosts
        .into_iter()
        .zip(answers.into_iter().map(|(_, answer)| answer))
        .collect())
}

/// Of this machine, also when nothing answers on its own port.
fn own(root: &Root) -> Result<Told> {
    Told::read(root)?.context("firstboot has not run since this machine was switched on")
}

fn ask(root: &Root, host: &Host, within: Duration) -> Result<Told> {
    let endpoint = endpoint(host.address, STATUS_PORT);
    let said = || format!("asking {endpoint}");
    let client = Client::from_kubeconfig_within(root, ADMIN, &endpoint, within)?;
    let answer = client.get("/status").map_err(|error| {
        // systemd on that host answers, firstboot's certificate is not there yet.
        let hint = match error.to_string() == CLOSED {
            true => "; it has no document yet",
            false => "",
        };
        anyhow!("{}: {error:#}{hint}", said())
    })?;
    ensure!(answer.status == 200, "{}: {}", said(), answer.say());
    serde_json::from_value(answer.body).with_context(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_of_the_node_file_is_asked_once() {
        let text = include_str!("../../tests/fixtures/node.yaml").replace(
            "- { address: 192.168.7.20, names: [n0] }",
            "- { address: 192.168.7.20, names: [n0.prod.internal, n0] }\n\
             - { address: \"fd00::20\", names: [n0.prod.internal, n0] }",
        );
        let node: NodeConfig = yaml::parse("node.yaml", &text).unwrap().value;
        let found: Vec<_> = hosts(&node)
            .into_iter()
            .map(|host| format!("{} {:?} {}", host.name, host.role, host.address))
            .collect();
        assert_eq!(
            found,
            [
                "m0 Master0 192.168.7.10",
                "m1 Master 192.168.7.11",
                "n0 Node 192.168.7.20"
            ]
        );
    }
}
