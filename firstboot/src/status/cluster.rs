//! `firstboot status --all`: requests the status of every host of the cluster.
//!
//! Only on control-plane hosts: a worker has no certificate that other hosts accept.

use std::io::{Write, stdout};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;
use userdata::contract::{NODE_FILE, STATUS_PORT};
use userdata::node_config::{NodeConfig, Role};

use super::host::{Answer, Host, is_ready};
use super::{StatusReport, table};
use crate::kube::client::{CLOSED, Client, REFUSED};
use crate::system::files::Root;
use crate::wait::endpoint;

const ADMIN: &str = "/etc/kubernetes/admin.conf";
/// Enough that unreachable hosts cost little time, few enough for a cluster of a thousand hosts.
const MAX_CONCURRENT: usize = 64;
/// Each thread only does TLS handshakes.
const STACK: usize = 512 << 10;

/// Requests the status of all hosts, each within `timeout`, and prints them. Returns whether all
/// are ready.
pub fn print(root: &Root, json: bool, timeout: Duration) -> Result<bool> {
    let node = node_file(root)?;
    let rows = request_all(root, &node, timeout)?;
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
    report: Option<&'a StatusReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn new(host: &'a Host, answer: &'a Answer) -> Self {
        Self {
            host: &host.name,
            role: host.role.as_str(),
            address: host.address,
            report: answer.as_ref().ok(),
            error: answer.as_ref().err().map(String::as_str),
        }
    }
}

fn node_file(root: &Root) -> Result<NodeConfig> {
    let bytes = root.read(NODE_FILE)?.with_context(|| {
        format!(
            "`{NODE_FILE}` is missing: this machine has no role in a cluster, or no document yet"
        )
    })?;
    let text = String::from_utf8(bytes).with_context(|| format!("reading `{NODE_FILE}`"))?;
    let node = yaml::parse_redacted::<NodeConfig>(NODE_FILE, &text)
        .map_err(|found| anyhow!("{}", found.lines().collect::<Vec<_>>().join("\n")))?
        .value;
    if node.role == Role::Node {
        let masters: Vec<_> = node.masters.iter().map(|one| one.name.as_str()).collect();
        bail!(
            "`{}` is a worker and cannot read the status of other hosts; run this on {}",
            node.name,
            masters.join(", ")
        );
    }
    Ok(node)
}

/// All hosts of the node file: the control plane in its order, then the workers.
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
        // The full name comes first, the host name last. A host with several addresses has several
        // entries.
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

fn request_all(root: &Root, node: &NodeConfig, timeout: Duration) -> Result<Vec<(Host, Answer)>> {
    let hosts = hosts(node);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut answers = Vec::new();
        while let Some((at, host)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            hosts.get(at).map(|host| (at, host))
        } {
            let answer = if host.name == node.name {
                own(root)
            } else {
                request(root, host, timeout)
            };
            answers.push((at, answer.map_err(|error| format!("{error:#}"))));
        }
        answers
    };
    let mut answers = thread::scope(|scope| {
        let threads = (0..hosts.len().min(MAX_CONCURRENT)).map(|_| {
            thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, work)
                .context("starting a thread")
        });
        let threads = threads.collect::<Result<Vec<_>>>()?;
        let joined = threads.into_iter().map(|thread| {
            thread
                .join()
                .map_err(|_| anyhow!("a thread that requests statuses has panicked"))
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

/// The status of this machine, even if its own port does not answer.
fn own(root: &Root) -> Result<StatusReport> {
    StatusReport::read(root)?.context("firstboot has not run since this machine booted")
}

fn request(root: &Root, host: &Host, timeout: Duration) -> Result<StatusReport> {
    request_at(root, &endpoint(host.address, STATUS_PORT), timeout)
}

/// The status that the host at `endpoint` serves.
pub(crate) fn request_at(root: &Root, endpoint: &str, timeout: Duration) -> Result<StatusReport> {
    let context = || format!("requesting the status from {endpoint}");
    let client = Client::from_kubeconfig_within(root, ADMIN, endpoint, timeout)?;
    let answer = client.get("/status").map_err(|error| {
        // systemd listens once the document has brought the certificate.
        let hint = match error.to_string().as_str() {
            CLOSED | REFUSED => "; it has no document yet",
            _ => "",
        };
        anyhow!("{}: {error:#}{hint}", context())
    })?;
    ensure!(answer.status == 200, "{}: {}", context(), answer.say());
    serde_json::from_value(answer.body).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_of_the_node_file_is_requested_once() {
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
