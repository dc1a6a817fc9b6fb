//! Three control-plane hosts and a worker, started at the same time, form a working cluster.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_tests::cluster::checks::{self, DOMAIN, Reach};
use vm_tests::cluster::snapshot;
use vm_tests::cluster::testbed::Testbed;
use vm_tests::observe::request_monitor::RequestMonitor;

const MASTERS: [&str; 3] = ["m0", "m1", "m2"];

// Forming a cluster takes 15 minutes without KVM, so checks that do not disturb each other share
// one.
#[test]
#[ignore = "20 minutes without KVM; run: cargo test -p vm-tests --test cluster_forms -- --include-ignored"]
fn three_masters_and_a_worker_form_a_cluster() -> Result<()> {
    let Some(mut testbed) = Testbed::new("cluster_forms", "ha")? else {
        return Ok(());
    };
    testbed.start_all()?;
    testbed.wait_ready_and_print()?;
    testbed.assert_healthy()?;
    snapshot::save(&testbed)?;

    check_labels_and_taints(&testbed)?;
    check_admin_access_to_every_master(&testbed)?;
    checks::worker_access_through_vip(&testbed, "n0")?;
    checks::pods_and_services(&testbed, "n0", Reach::All)?;
    check_apiserver_restart(&testbed)?;
    testbed.assert_healthy()?;
    testbed.passed();
    Ok(())
}

fn check_labels_and_taints(testbed: &Testbed) -> Result<()> {
    let nodes = testbed.assert_nodes_ready("m0")?;
    let node = |name: &str| {
        let items = nodes["items"].as_array().into_iter().flatten();
        let mut named = items.filter(|node| node["metadata"]["name"] == name);
        named
            .next()
            .with_context(|| format!("the cluster has no node {name}"))
    };
    let worker = node("n0")?;
    assert_eq!(worker["metadata"]["labels"]["disk"], "ssd", "{worker}");
    let taints = |name: &str| -> Result<Vec<String>> {
        let taints = node(name)?["spec"]["taints"].as_array();
        let is_of_topology = |taint: &&serde_json::Value| {
            // Kubernetes adds and removes taints of its own.
            let key = taint["key"].as_str().unwrap_or_default();
            !key.starts_with("node.kubernetes.io/")
        };
        Ok(taints
            .into_iter()
            .flatten()
            .filter(is_of_topology)
            .map(|taint| {
                format!(
                    "{}={}:{}",
                    taint["key"].as_str().unwrap_or_default(),
                    taint["value"].as_str().unwrap_or_default(),
                    taint["effect"].as_str().unwrap_or_default()
                )
            })
            .collect())
    };
    assert_eq!(taints("n0")?, ["dedicated=storage:NoSchedule"]);
    for master in MASTERS {
        assert_eq!(
            taints(master)?,
            ["node-role.kubernetes.io/control-plane=:NoSchedule"],
            "{master}"
        );
    }
    Ok(())
}

fn check_admin_access_to_every_master(testbed: &Testbed) -> Result<()> {
    for master in MASTERS {
        // A write, with the authority, name and client certificate of admin.conf.
        let name = format!("written-through-{master}");
        testbed.kubectl(master, &["create", "configmap", &name])?;
    }
    let names = testbed.kubectl("m0", &["get", "configmaps", "-o", "name"])?;
    for master in MASTERS {
        assert!(
            names.contains(&format!("configmap/written-through-{master}")),
            "{names}"
        );
    }
    Ok(())
}

fn check_apiserver_restart(testbed: &Testbed) -> Result<()> {
    let victim = testbed.member("m1")?;
    let requests = RequestMonitor::start(testbed.vm("n0")?, DOMAIN)?;
    testbed.vm("m1")?.shell("pkill -KILL -x kube-apiserver")?;
    let server = victim.endpoint(6443);
    requests.wait_for_table(Duration::from_secs(120), &server, false)?;
    requests.wait_for_table(Duration::from_secs(360), &server, true)?;
    let report = requests.stop()?;
    println!("an apiserver is killed and restarts: {report}");
    ensure!(
        report
            .requests
            .iter()
            .filter(|request| request.is_ok())
            .count()
            > 10,
        "too few successful requests: {report}"
    );
    let failed = report.failed_without(&server);
    ensure!(
        failed.is_empty(),
        "requests failed while the dead server was not in the table: {failed:?}; {report}"
    );
    Ok(())
}
