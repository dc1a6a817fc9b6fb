//! The cluster recovers from power failures without help: of control-plane hosts while they join,
//! of master0 for good, and of all hosts at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firstboot::journal::{FAILED, KUBEADM_STARTED, READY, STEP_FAILED, field};
use vm_tests::cluster::snapshot;
use vm_tests::cluster::testbed::Testbed;
use vm_tests::cluster::{READY_DEADLINE, never_ready};
use vm_tests::machine::journal::RecordMatch;
use vm_tests::observe::request_monitor::{RequestMonitor, wait_for_servers};

const DOMAIN: &str = "apiserver.cluster.local";

// One test for late hosts and power cuts: both start from a cluster of the other two machines.
#[test]
#[ignore = "30 minutes without KVM; run: cargo test -p vm-tests --test cluster_power late_masters -- --include-ignored"]
fn late_masters_join_despite_power_cuts() -> Result<()> {
    let Some(mut testbed) = Testbed::new("masters_cut", "ha")? else {
        return Ok(());
    };
    let late = ["m1", "m2"];
    for name in ["m0", "n0"] {
        testbed.start(name)?;
    }
    testbed.wait_ready()?;
    wait_for_servers(
        testbed.vm("n0")?,
        Duration::from_secs(60),
        &testbed.cluster.apiservers(&late),
    )?;

    testbed.start_all()?;
    // The join lock decides which of the two joins first.
    let first = first_to_join(&testbed)?;
    late.iter().try_for_each(|name| testbed.power_cut(name))?;
    println!("first power cut: {first} has just started to join");

    testbed.start_all()?;
    // The second power cut, at the worst moment: one etcd member has not caught up yet.
    wait_for_learner(&testbed)?;
    late.iter().try_for_each(|name| testbed.power_cut(name))?;
    // A learner has no vote, so the cluster still has its quorum.
    testbed.kubectl("m0", &["create", "configmap", "while-both-are-off"])?;

    testbed.start_all()?;
    testbed.wait_ready()?;
    // The worker discovers the new apiservers.
    wait_for_servers(
        testbed.vm("n0")?,
        Duration::from_secs(60),
        &testbed.cluster.apiservers(&[]),
    )?;
    testbed.assert_healthy()?;
    testbed.passed();
    Ok(())
}

/// Waits until one of the two hosts starts kubeadm, and returns its name.
fn first_to_join(testbed: &Testbed) -> Result<String> {
    let started = RecordMatch::id(KUBEADM_STARTED);
    let mut seen = [0, 0];
    let deadline = testbed.vm("m1")?.wall(READY_DEADLINE);
    let since = std::time::Instant::now();
    while since.elapsed() < deadline {
        for (name, seen) in ["m1", "m2"].iter().zip(&mut seen) {
            let journal = testbed.vm(name)?.journal()?;
            let (records, more) = journal.after(*seen, Duration::from_millis(200));
            *seen += records.len();
            let failed = records
                .iter()
                .find(|record| never_ready().iter().any(|never| never.matches(record)));
            ensure!(more && failed.is_none(), "{name} cannot join: {failed:?}");
            if records.iter().any(|record| started.matches(record)) {
                return Ok(name.to_string());
            }
        }
    }
    anyhow::bail!("no host started to join within {deadline:?}")
}

/// Waits until the etcd of master0 lists a learner.
fn wait_for_learner(testbed: &Testbed) -> Result<()> {
    let etcd = testbed.etcd("m0")?;
    let deadline = testbed.vm("m0")?.wall(READY_DEADLINE);
    let since = std::time::Instant::now();
    while since.elapsed() < deadline {
        let list = etcd.members();
        if list.is_ok_and(|list| list.members.iter().any(|member| member.is_learner)) {
            return Ok(());
        }
        // The member list is not a key of etcd, so it cannot be watched.
        std::thread::sleep(Duration::from_secs(1));
    }
    anyhow::bail!("etcd listed no learner within {deadline:?}")
}

#[test]
#[ignore = "15 minutes without KVM, and 20 more if no cluster is saved; run: cargo test -p vm-tests --test cluster_power cluster_without_master0 -- --include-ignored"]
fn cluster_without_master0_serves_through_the_vip() -> Result<()> {
    let Some(mut testbed) = snapshot::restored("master0_dies", "ha")? else {
        return Ok(());
    };
    testbed.assert_healthy()?;
    let server = testbed.member("m0")?.endpoint(6443);
    testbed.power_cut("m0")?;
    let node = testbed.vm("n0")?;
    let requests = RequestMonitor::start(node, DOMAIN)?;
    wait_for_servers(
        node,
        Duration::from_secs(60),
        &testbed.cluster.apiservers(&["m0"]),
    )?;
    requests.wait_for_requests(Duration::from_secs(120), 20)?;
    let report = requests.stop()?;
    println!("master0 has lost power, requests of a worker: {report}");
    ensure!(report.failed_without(&server).is_empty(), "{report}");

    // Two of three etcd members are a quorum, and the leaders are elected again.
    for master in ["m1", "m2"] {
        testbed.kubectl(
            master,
            &["create", "configmap", &format!("written-through-{master}")],
        )?;
    }
    testbed.assert_one_etcd()?;
    testbed.apply("m1", "late", &late(&testbed.pause_image("n0")?))?;
    testbed
        .kubectl(
            "m2",
            &["rollout", "status", "deployment/late", "--timeout=3000s"],
        )
        .context("waiting for the controller manager and the scheduler without m0")?;
    testbed.assert_nodes_ready("m1")?;
    // A control-plane host reports the status of all hosts, of the dead one too.
    let all = testbed
        .vm("m1")?
        .run("firstboot status --all --timeout 60")?;
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
    testbed.cluster.assert_no_packet_left()?;
    testbed.passed();
    Ok(())
}

/// A Deployment that needs the controller manager, the scheduler, and the worker's kubelet behind
/// the VIP.
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
#[ignore = "15 minutes without KVM, and 20 more if no cluster is saved; run: cargo test -p vm-tests --test cluster_power cluster_recovers -- --include-ignored"]
fn cluster_recovers_after_all_hosts_lose_power() -> Result<()> {
    let Some(mut testbed) = snapshot::restored("all_power_cut", "ha")? else {
        return Ok(());
    };
    testbed.kubectl("m1", &["create", "configmap", "before-the-power-cut"])?;
    for name in ["m0", "m1", "m2", "n0"] {
        testbed.power_cut(name)?;
    }
    testbed.start_all()?;
    for (name, ready) in testbed.wait_ready()? {
        assert_eq!(ready.get(field::CHANGED), Some("0"), "{name}: {ready:?}");
    }
    let known = testbed.kubectl(
        "m2",
        &["get", "configmap", "before-the-power-cut", "-o", "name"],
    )?;
    assert_eq!(known.trim(), "configmap/before-the-power-cut");
    testbed.assert_healthy()?;
    testbed.passed();
    Ok(())
}

#[test]
#[ignore = "3 minutes without KVM, and 20 more if no cluster is saved; run: cargo test -p vm-tests --test cluster_power wiped_master0 -- --include-ignored"]
fn wiped_master0_refuses_to_initialise() -> Result<()> {
    let Some(mut testbed) = snapshot::restored("master0_wiped", "ha")? else {
        return Ok(());
    };
    testbed.power_cut("m0")?;
    testbed.wipe("m0")?;
    let wiped = testbed.start("m0")?;
    let failed = wiped.wait_for(
        &RecordMatch::id(FAILED),
        &[RecordMatch::id(READY)],
        READY_DEADLINE,
    )?;
    let reason = failed.get(field::REASON).unwrap_or_default();
    assert!(
        reason.contains("192.168.7.11") || reason.contains("192.168.7.12"),
        "the reason names no apiserver that answers: {failed:?}"
    );
    let init = RecordMatch::id(STEP_FAILED).field(field::STEP, "init-guard");
    wiped.wait_for(&init, &[], Duration::from_secs(1))?;
    assert_eq!(
        wiped.shell(
            "ls -A /var/lib/etcd /etc/kubernetes/manifests 2>/dev/null | grep -v : ; true"
        )?,
        ""
    );
    testbed.power_cut("m0")?;
    testbed.assert_one_etcd()?;
    testbed.assert_nodes_ready("m1")?;
    testbed.passed();
    Ok(())
}
