//! A control-plane host of a running cluster gets another address, by a changed topology.

use std::time::Duration;

use anyhow::{Context, Result};
use firstboot::journal::{STEP_DONE, field};
use vm_tests::cluster::etcd::MemberList;
use vm_tests::cluster::snapshot;
use vm_tests::cluster::wait_ready;
use vm_tests::machine::journal::RecordMatch;
use vm_tests::observe::request_monitor::wait_for_servers;

#[test]
#[ignore = "30 minutes without KVM, and 20 more if no cluster is saved; run: cargo test -p vm-tests --test cluster_moves_master -- --include-ignored"]
fn master_with_new_address_stays_the_same_member() -> Result<()> {
    let Some(mut testbed) = snapshot::restored("moves_master", "ha")? else {
        return Ok(());
    };
    let before = testbed.etcd("m0")?.members()?;
    let id = |list: &MemberList| {
        let mut members = list.members.iter();
        members
            .find(|member| member.name == "m2")
            .map(|member| member.id.clone())
    };
    testbed.change_topology("ha-moved")?;

    // The moved host first: the addresses of the others have not changed.
    testbed.reboot("m2")?;
    let moved = testbed.vm("m2")?;
    wait_ready(moved)?;
    moved
        .wait_for(
            &RecordMatch::id(STEP_DONE).field(field::STEP, "node-ip"),
            &[],
            Duration::from_secs(1),
        )
        .context("the step node-ip changed nothing")?;
    testbed.assert_one_etcd()?;
    let after = testbed.etcd("m0")?.members()?;
    assert_eq!(after.cluster, before.cluster);
    assert_eq!(id(&after), id(&before), "the etcd member is the same");
    // The worker still has its old document, and discovers the new address from the cluster.
    wait_for_servers(
        testbed.vm("n0")?,
        Duration::from_secs(120),
        &testbed.cluster.apiservers(&[]),
    )
    .context("reading the worker's table before its new document")?;
    // Certificates and kubeconfigs contain the name, so the old admin.conf works with the new
    // address.
    testbed.kubectl("m2", &["create", "configmap", "written-to-the-new-address"])?;

    for name in ["m0", "m1", "n0"] {
        testbed.reboot(name)?;
        // Only this host: restored hosts became ready before and do not report it again.
        wait_ready(testbed.vm(name)?)?;
        let hosts = testbed.vm(name)?.shell("cat /etc/hosts")?;
        assert!(
            hosts.contains("192.168.7.32 m2") && !hosts.contains("192.168.7.12 "),
            "{name}: {hosts}"
        );
    }
    wait_for_servers(
        testbed.vm("n0")?,
        Duration::from_secs(120),
        &testbed.cluster.apiservers(&[]),
    )?;
    testbed.assert_healthy()?;
    testbed.passed();
    Ok(())
}
