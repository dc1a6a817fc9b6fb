//! What clients of a formed cluster expect of it, as checks that several tests use.

mod pods;
mod streams;

use std::time::Duration;

use anyhow::{Result, ensure};

pub use pods::{Reach, pods_and_services};
pub use streams::{logs_exec_and_cp, port_forward};

use crate::cluster::testbed::Testbed;
use crate::observe::request_monitor::wait_for_servers;

pub const DOMAIN: &str = "apiserver.cluster.local";

/// Fails unless `worker` reaches the apiservers as it should: one static pod, every apiserver in
/// the IPVS table, the domain at the VIP, and on a control-plane host at itself.
pub fn worker_access_through_vip(testbed: &Testbed, worker: &str) -> Result<()> {
    let node = testbed.vm(worker)?;
    let manifests = node.shell("ls /etc/kubernetes/manifests")?;
    ensure!(manifests.trim() == "lvscare.yaml", "{manifests}");
    wait_for_servers(
        node,
        Duration::from_secs(60),
        &testbed.cluster.apiservers(&[]),
    )?;
    let hosts = node.shell("cat /etc/hosts")?;
    let maps = |name: &str, address: &str| {
        hosts.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(address) && words.any(|word| word == name)
        })
    };
    let plan = &testbed.cluster.plan;
    ensure!(
        maps(DOMAIN, &plan.apiserver.vip.to_string()),
        "{}: {hosts}",
        plan.apiserver.vip
    );
    for host in &plan.hosts {
        for address in host.ips() {
            ensure!(maps(&host.name, &address.to_string()), "{address}: {hosts}");
        }
    }
    // On a control-plane host the domain is the host itself.
    for master in testbed.cluster.control_plane() {
        let hosts = testbed
            .vm(&master.name)?
            .shell(&format!("grep {DOMAIN} /etc/hosts"))?;
        let addresses: Vec<_> = hosts
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        ensure!(
            addresses == [master.address.to_string()],
            "{}: {hosts}",
            master.name
        );
    }
    Ok(())
}
