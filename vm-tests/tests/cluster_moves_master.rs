//! A master gets another address by a changed topology and new documents, on a running cluster.

use std::time::Duration;

use anyhow::{Context, Result};
use firstboot::journal::{STEP_DONE, field};
use vm_tests::asking::wait_for_servers;
use vm_tests::cluster::wait_ready;
use vm_tests::etcd::View;
use vm_tests::journal::Want;
use vm_tests::site::Site;

#[test]
#[ignore = "needs 30 minutes without KVM, and a formed cluster; run: cargo test -p vm-tests -- --include-ignored"]
fn master_with_new_address_stays_the_same_member() -> Result<()> {
    let Some(mut site) = Site::formed("moves_master", "ha")? else {
        return Ok(());
    };
    let before = site.etcd("m0")?.view()?;
    let id = |view: &View| {
        let mut members = view.members.iter();
        members
            .find(|member| member.name == "m2")
            .map(|member| member.id.clone())
    };
    site.change_topology("ha-moved")?;

    // The one that moves first: the others are where it knows them.
    site.reboot("m2")?;
    let moved = site.vm("m2")?;
    wait_ready(moved)?;
    moved
        .wait_for(
            &Want::id(STEP_DONE).field(field::STEP, "node-ip"),
            &[],
            Duration::from_secs(1),
        )
        .context("nothing was moved")?;
    site.has_one_etcd()?;
    let after = site.etcd("m0")?.view()?;
    assert_eq!(after.cluster, before.cluster);
    assert_eq!(id(&after), id(&before), "not a new member");
    // The node has not been told, and hears of it from the cluster.
    wait_for_servers(
        site.vm("n0")?,
        Duration::from_secs(120),
        &site.cluster.apiservers(&[]),
    )
    .context("the node's table, before its own new document")?;
    // The name is what certificates and kubeconfigs hold on to: the old admin.conf leads to the new address.
    site.kubectl("m2", &["create", "configmap", "by-way-of-the-new-address"])?;

    for name in ["m0", "m1", "n0"] {
        site.reboot(name)?;
        // Not of all that are on: who was restored became ready before, and says it once.
        wait_ready(site.vm(name)?)?;
        let hosts = site.vm(name)?.ok("cat /etc/hosts")?;
        assert!(
            hosts.contains("192.168.7.32 m2") && !hosts.contains("192.168.7.12 "),
            "{name}: {hosts}"
        );
    }
    wait_for_servers(
        site.vm("n0")?,
        Duration::from_secs(120),
        &site.cluster.apiservers(&[]),
    )?;
    site.is_whole()?;
    site.passed();
    Ok(())
}
