//! Clusters of IPv6 alone and of both address families form and carry traffic: the cluster of
//! `cluster_pair` with other addresses, and with the other modes of kube-proxy: `ipvs` beside
//! lvscare's virtual server with IPv6 alone, `nftables` in dual stack.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use vm_tests::cluster::checks::{self, Reach};
use vm_tests::cluster::testbed::Testbed;

/// Prints the answer of kube-proxy, whose last word is its mode.
const PROXY_MODE: &str = r#"bash -c "exec 3<>/dev/tcp/localhost/10249
printf 'GET /proxyMode HTTP/1.0\r\n\r\n' >&3
cat <&3""#;

#[test]
#[ignore = "20 minutes without KVM; run: cargo test -p vm-tests --test cluster_families -- --include-ignored"]
fn ipv6_cluster_forms_and_carries_traffic() -> Result<()> {
    forms("cluster_v6", "pair-v6", "ipvs")
}

#[test]
#[ignore = "20 minutes without KVM; run: cargo test -p vm-tests --test cluster_families -- --include-ignored"]
fn dual_stack_cluster_forms_and_carries_traffic() -> Result<()> {
    forms("cluster_dual", "pair-dual", "nftables")
}

fn forms(test: &str, topology: &str, mode: &str) -> Result<()> {
    let Some(mut testbed) = Testbed::new(test, topology)? else {
        return Ok(());
    };
    testbed.start_all()?;
    testbed.wait_ready_and_print()?;
    testbed.assert_healthy()?;
    nodes_have_every_address(&testbed)?;
    checks::pods_and_services(&testbed, "n0", Reach::Next)?;
    let running = testbed.vm("n0")?.shell(PROXY_MODE)?;
    ensure!(running.trim_end().ends_with(mode), "kube-proxy: {running}");
    // After kube-proxy has synchronised its Services, so that it would have deleted the virtual IP.
    checks::worker_access_through_vip(&testbed, "n0")?;
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
