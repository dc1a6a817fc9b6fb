//! Power fails: while masters that came late join, for one master for good, and everywhere at once. What is left, or
//! comes back, is one cluster that answers, and nobody had to do anything.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firstboot::journal::{FAILED, KUBEADM_STARTED, READY, STEP_FAILED, field};
use vm_tests::asking::{Asking, wait_for_servers};
use vm_tests::cluster::{READY_DEADLINE, never_ready};
use vm_tests::journal::Want;
use vm_tests::site::Site;

const DOMAIN: &str = "apiserver.cluster.local";

// Masters that come late, and whose power is cut: both begin when the other two machines have become a cluster.
#[test]
#[ignore = "needs 30 minutes without KVM; run: cargo test -p vm-tests -- --include-ignored"]
fn late_masters_join_despite_power_cuts() -> Result<()> {
    let Some(mut site) = Site::new("masters_cut", "ha")? else {
        return Ok(());
    };
    let late = ["m1", "m2"];
    for name in ["m0", "n0"] {
        site.start(name)?;
    }
    site.wait_ready()?;
    wait_for_servers(
        site.vm("n0")?,
        Duration::from_secs(60),
        &site.cluster.apiservers(&late),
    )?;

    site.start_all()?;
    // Which of the two is first, their lease decides.
    let first = first_to_join(&site)?;
    late.iter().try_for_each(|name| site.cut(name))?;
    println!("cut off first as {first} had just begun");

    site.start_all()?;
    // Now in the worst moment: etcd counts a member that has not caught up.
    wait_for_learner(&site)?;
    late.iter().try_for_each(|name| site.cut(name))?;
    // A learner has no vote: what is there goes on.
    site.kubectl("m0", &["create", "configmap", "while-they-are-off"])?;

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

/// The master that begins to join before the other may.
fn first_to_join(site: &Site) -> Result<String> {
    let begun = Want::id(KUBEADM_STARTED);
    let mut seen = [0, 0];
    let deadline = site.vm("m1")?.wall(READY_DEADLINE);
    let since = std::time::Instant::now();
    while since.elapsed() < deadline {
        for (name, seen) in ["m1", "m2"].iter().zip(&mut seen) {
            let journal = site.vm(name)?.journal()?;
            let (records, more) = journal.after(*seen, Duration::from_millis(200));
            *seen += records.len();
            let failed = records
                .iter()
                .find(|record| never_ready().iter().any(|never| never.matches(record)));
            ensure!(more && failed.is_none(), "{name} cannot join: {failed:?}");
            if records.iter().any(|record| begun.matches(record)) {
                return Ok(name.to_string());
            }
        }
    }
    anyhow::bail!("no master began to join within {deadline:?}")
}

/// Until master0's etcd lists a member without a vote.
fn wait_for_learner(site: &Site) -> Result<()> {
    let etcd = site.etcd("m0")?;
    let deadline = site.vm("m0")?.wall(READY_DEADLINE);
    let since = std::time::Instant::now();
    while since.elapsed() < deadline {
        let view = etcd.view();
        if view.is_ok_and(|view| view.members.iter().any(|member| member.is_learner)) {
            return Ok(());
        }
        // The members are not a key of etcd's: nothing can be watched.
        std::thread::sleep(Duration::from_secs(1));
    }
    anyhow::bail!("no learner within {deadline:?}")
}

#[test]
#[ignore = "needs 15 minutes without KVM, and a formed cluster; run: cargo test -p vm-tests -- --include-ignored"]
fn cluster_without_master0_serves_through_the_vip() -> Result<()> {
    let Some(mut site) = Site::formed("master0_dies", "ha")? else {
        return Ok(());
    };
    site.is_whole()?;
    let server = format!("{}:6443", site.member("m0")?.address);
    site.cut("m0")?;
    let node = site.vm("n0")?;
    let asking = Asking::start(node, DOMAIN)?;
    wait_for_servers(
        node,
        Duration::from_secs(60),
        &site.cluster.apiservers(&["m0"]),
    )?;
    asking.wait_for_requests(Duration::from_secs(120), 20)?;
    let report = asking.stop()?;
    println!("master0 dead for good, seen from a node: {report}");
    ensure!(report.failed_without(&server).is_empty(), "{report}");

    // Two of three are a majority: what is written stays, and whoever led is replaced.
    for master in ["m1", "m2"] {
        site.kubectl(
            master,
            &["create", "configmap", &format!("by-way-of-{master}")],
        )?;
    }
    site.has_one_etcd()?;
    site.apply("m1", "late", &late(&site.pause_image("n0")?))?;
    site.kubectl(
        "m2",
        &["rollout", "status", "deployment/late", "--timeout=3000s"],
    )
    .context("waiting for controllers and scheduler without m0")?;
    site.nodes_are_ready("m1")?;
    // A master says of every host how it is, of the dead one too.
    let all = site.vm("m1")?.run("firstboot status --all --timeout 60")?;
    println!("firstboot status --all:\n{}", all.stdout);
    ensure!(all.status == 1, "status {}: {}", all.status, all.stderr);
    for (name, phase) in [
        ("m0", "unreachable"),
        ("m1", "ready"),
        ("m2", "ready"),
        ("n0", "ready"),
    ] {
        let mut lines = all.stdout.lines();
        let line = lines.find(|line| line.starts_with(name));
        ensure!(
            line.is_some_and(|line| line.contains(phase)),
            "{name} is not {phase}: {line:?}"
        );
    }
    site.cluster.no_packet_left()?;
    site.passed();
    Ok(())
}

/// Needs a controller, the scheduler, and the node's kubelet by way of the VIP.
fn late(pause: &str) -> serde_json::Value {
    serde_json::json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "late"}, "spec": {
        "selector": {"matchLabels": {"app": "late"}},
        "template": {"metadata": {"labels": {"app": "late"}}, "spec": {
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "late", "image": pause, "imagePullPolicy": "Never"}],
        }},
    }})
}

#[test]
#[ignore = "needs 15 minutes without KVM, and a formed cluster; run: cargo test -p vm-tests -- --include-ignored"]
fn cluster_recovers_after_all_hosts_lose_power() -> Result<()> {
    let Some(mut site) = Site::formed("dark", "ha")? else {
        return Ok(());
    };
    site.kubectl("m1", &["create", "configmap", "before-the-dark"])?;
    for name in ["m0", "m1", "m2", "n0"] {
        site.cut(name)?;
    }
    site.start_all()?;
    for (name, ready) in site.wait_ready()? {
        assert_eq!(ready.get(field::CHANGED), Some("0"), "{name}: {ready:?}");
    }
    let known = site.kubectl("m2", &["get", "configmap", "before-the-dark", "-o", "name"])?;
    assert_eq!(known.trim(), "configmap/before-the-dark");
    site.is_whole()?;
    site.passed();
    Ok(())
}

#[test]
#[ignore = "needs 3 minutes without KVM, and a formed cluster; run: cargo test -p vm-tests -- --include-ignored"]
fn wiped_master0_refuses_to_initialise() -> Result<()> {
    let Some(mut site) = Site::formed("master0_wiped", "ha")? else {
        return Ok(());
    };
    site.cut("m0")?;
    site.wipe("m0")?;
    let wiped = site.start("m0")?;
    let failed = wiped.wait_for(&Want::id(FAILED), &[Want::id(READY)], READY_DEADLINE)?;
    let reason = failed.get(field::REASON).unwrap_or_default();
    assert!(
        reason.contains("192.168.7.11") || reason.contains("192.168.7.12"),
        "it names no master that answers: {failed:?}"
    );
    let init = Want::id(STEP_FAILED).field(field::STEP, "init-guard");
    wiped.wait_for(&init, &[], Duration::from_secs(1))?;
    assert_eq!(
        wiped.ok("ls -A /var/lib/etcd /etc/kubernetes/manifests 2>/dev/null | grep -v : ; true")?,
        ""
    );
    site.cut("m0")?;
    site.has_one_etcd()?;
    site.nodes_are_ready("m1")?;
    site.passed();
    Ok(())
}
