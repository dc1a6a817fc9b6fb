//! Clusters of IPv6 alone and of both address families form and carry traffic: the cluster of
//! `cluster_pair` with other addresses, and in dual stack with the nftables mode of kube-proxy.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use vm_tests::cluster::checks::{self, Reach};
use vm_tests::cluster::testbed::Testbed;

#[test]
#[ignore = "20 minutes without KVM; run: cargo test -p vm-tests --test cluster_families -- --include-ignored"]
fn ipv6_cluster_forms_and_carries_traffic() -> Result<()> {
    forms("cluster_v6", "pair-v6")
}

#[test]
#[ignore = "20 minutes without KVM; run: cargo test -p vm-tests --test cluster_families -- --include-ignored"]
fn dual_stack_cluster_forms_and_carries_traffic() -> Result<()> {
    forms("cluster_dual", "pair-dual")
}

fn forms(test: &str, topology: &str) -> Result<()> {
    let Some(mut testbed) = Testbed::new(test, topology)? else {
        return Ok(());
    };
    testbed.start_all()?;
    testbed.wait_ready_and_print()?;
    testbed.assert_healthy()?;
    nodes_have_every_address(&testbed)?;
    checks::worker_access_through_vip(&testbed, "n0")?;
    checks::pods_and_services(&testbed, "n0", Reach::Next)?;
    checks::logs_exec_and_cp(&testbed, "m1", "n0")?;
    checks::port_forward(&testbed, "m1", "n0")?;
    testbed.cluster.assert_no_packet_left()?;
    testbed.passed();
    Ok(())
}

/// The API has the addresses of the topology for each node, no fewer and no others.
fn nodes_have_every_address(testbed: &Testbed) -> Result<()> {
    let nodes = testbed.assert_nodes_ready("m0")?;
    for host in &testbed.cluster.plan.hosts {
        let items = nodes["items"].as_array().into_iter().flatten();
        let addresses = items
            .filter(|node| node["metadata"]["name"] == host.name.as_str())
            .filter_map(|node| node["status"]["addresses"].as_array())
            .flatten();
        let found: BTreeSet<IpAddr> = addresses
            .filter(|address| address["type"] == "InternalIP")
            .filter_map(|address| address["address"].as_str()?.parse().ok())
            .collect();
        ensure!(
            found == host.ips().collect(),
            "{} has {found:?}, the topology {:?}",
            host.name,
            host.addresses
        );
    }
    Ok(())
}
