//! In whatever order the machines are switched on, they become one cluster, and say meanwhile whom they wait for.

use std::time::Duration;

use anyhow::Result;
use firstboot::journal::{WAITING, field};
use vm_tests::asking::wait_for_servers;
use vm_tests::journal::Want;
use vm_tests::site::Site;

#[test]
#[ignore = "needs 20 minutes without KVM; run: cargo test -p vm-tests -- --include-ignored"]
fn masters_that_come_late_join_what_is_there() -> Result<()> {
    let Some(mut site) = Site::new("masters_late", "ha")? else {
        return Ok(());
    };
    site.start("m0")?;
    site.start("n0")?;
    site.wait_ready()?;
    let others = ["m1", "m2"];
    wait_for_servers(
        site.vm("n0")?,
        Duration::from_secs(60),
        &site.cluster.apiservers(&others),
    )?;
    site.start_all()?;
    site.wait_ready()?;
    // The node hears of them by itself.
    wait_for_servers(
        site.vm("n0")?,
        Duration::from_secs(60),
        &site.cluster.apiservers(&[]),
    )?;
    site.is_whole()?;
    site.passed();
    Ok(())
}

#[test]
#[ignore = "needs 20 minutes without KVM; run: cargo test -p vm-tests -- --include-ignored"]
fn all_wait_for_master0_however_late_it_comes() -> Result<()> {
    let Some(mut site) = Site::new("master0_last", "ha")? else {
        return Ok(());
    };
    for name in ["m1", "m2", "n0"] {
        site.start(name)?;
    }
    let join = Want::id(WAITING).field(field::STEP, "kubeadm-join");
    for (name, waiting) in site.wait_each(&join, Duration::from_secs(120))? {
        let endpoint = waiting.get(field::ENDPOINT).unwrap_or_default();
        let answer = waiting.get(field::ANSWER).unwrap_or_default();
        assert!(
            endpoint.contains("192.168.7.10:6443") && answer.contains("m0"),
            "{name} does not say that it waits for m0: {waiting:?}"
        );
        let status: serde_json::Value =
            serde_json::from_str(&site.vm(&name)?.ok("cat /run/firstlight/status.json")?)?;
        assert!(
            status.to_string().contains("192.168.7.10:6443"),
            "{name}: {status}"
        );
    }
    for (name, vm) in &site.on {
        // Since its start, and then for a minute of waiting: what that took of a core.
        let used = vm.ok(
            "p=$(systemctl show -P MainPID firstboot); t() { set -- $(cat /proc/$p/stat); echo $((${14} + ${15})); }; \
             a=$(t); read b _ </proc/uptime; sleep 60; c=$(t); read d _ </proc/uptime; echo $((c - a)) $b $d",
        )?;
        println!(
            "{name}, waiting: {} (ticks of 10 ms, from, to)",
            used.trim()
        );
    }
    site.start("m0")?;
    site.wait_ready()?;
    site.is_whole()?;
    site.passed();
    Ok(())
}
