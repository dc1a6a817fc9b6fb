//! Three control-plane hosts and a worker, started at the same time, form a working cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use vm_tests::cluster::invariants::is_ready;
use vm_tests::cluster::snapshot;
use vm_tests::cluster::testbed::Testbed;
use vm_tests::observe::request_monitor::{RequestMonitor, wait_for_servers};

const MASTERS: [&str; 3] = ["m0", "m1", "m2"];
const HOSTS: [&str; 4] = ["m0", "m1", "m2", "n0"];
/// Connects from a pod to the address `$1`.
const POD_REQUEST: &str = include_str!("pod_request.sh");

const DOMAIN: &str = "apiserver.cluster.local";

// Forming a cluster takes 15 minutes without KVM, so checks that do not disturb each other share
// one.
#[test]
#[ignore = "20 minutes without KVM; run: cargo test -p vm-tests --test cluster_forms -- --include-ignored"]
fn three_masters_and_a_worker_form_a_cluster() -> Result<()> {
    let Some(mut testbed) = Testbed::new("cluster_forms", "ha")? else {
        return Ok(());
    };
    testbed.start_all()?;
    for (name, ready) in testbed.wait_ready()? {
        let boot = ready.since_boot().unwrap_or_default();
        println!(
            "{name}: ready {:.0} s after power-on by the guest's clock",
            boot.as_secs_f64()
        );
    }
    testbed.assert_healthy()?;
    snapshot::save(&testbed)?;

    check_labels_and_taints(&testbed)?;
    check_admin_access_to_every_master(&testbed)?;
    check_worker_access_through_vip(&testbed)?;
    check_pods_and_services(&testbed)?;
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

fn check_worker_access_through_vip(testbed: &Testbed) -> Result<()> {
    let node = testbed.vm("n0")?;
    assert_eq!(
        node.shell("ls /etc/kubernetes/manifests")?.trim(),
        "lvscare.yaml"
    );
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
    assert!(maps(DOMAIN, "10.103.97.2"), "{hosts}");
    for member in &testbed.cluster.members {
        assert!(maps(&member.name, &member.address.to_string()), "{hosts}");
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
        assert_eq!(addresses, [master.address.to_string()], "{}", master.name);
    }
    Ok(())
}

fn check_pods_and_services(testbed: &Testbed) -> Result<()> {
    testbed.apply("m0", "web", &web(&testbed.pause_image("n0")?))?;
    testbed.kubectl(
        "m0",
        &["rollout", "status", "daemonset/web", "--timeout=3000s"],
    )?;
    let pods = testbed.get(
        "m0",
        "/api/v1/namespaces/default/pods?labelSelector=app%3Dweb",
    )?;
    let service = testbed.get("m0", "/api/v1/namespaces/default/services/web")?;
    let service = service["spec"]["clusterIP"]
        .as_str()
        .context("the Service has no clusterIP")?
        .to_string();
    let mut pods_by_host = Vec::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        ensure!(is_ready(pod), "{}", pod["status"]);
        let text = |pointer: &str| {
            pod.pointer(pointer)
                .and_then(|v| v.as_str())
                .map(String::from)
        };
        pods_by_host.push((
            text("/spec/nodeName").context("the pod has no node")?,
            text("/metadata/name").context("the pod has no name")?,
            text("/status/podIP").context("the pod has no address")?,
        ));
    }
    let hosts: BTreeSet<_> = pods_by_host
        .iter()
        .map(|(host, ..)| host.as_str())
        .collect();
    assert_eq!(hosts, BTreeSet::from(HOSTS), "every host runs a pod");

    for from in HOSTS {
        let vm = testbed.vm(from)?;
        let request = |address: &str| format!("set -- '{address}'\n{POD_REQUEST}");
        for (to, pod, address) in &pods_by_host {
            let answer = vm
                .shell(&request(&format!("{address}:8080")))
                .with_context(|| format!("connecting from the pod on {from} to the pod on {to}"))?;
            assert_eq!(answer.trim(), pod, "from {from} to {to}");
        }
        let answer = vm
            .shell(&request(&format!("{service}:80")))
            .with_context(|| format!("connecting from the pod on {from} to the Service"))?;
        let known = pods_by_host.iter().any(|(_, pod, _)| pod == answer.trim());
        assert!(
            known,
            "on {from} the Service answers `{answer}`, which is not a pod"
        );
    }
    Ok(())
}

/// A pod on every host that sends its name to each client. The package has no image with a server,
/// so the pod is the pause image with the host's programs mounted.
fn web(pause: &str) -> serde_json::Value {
    let mounts = [
        ("/usr", "/usr"),
        ("/usr/lib", "/lib"),
        ("/usr/lib64", "/lib64"),
    ];
    let volume = |(from, to): &(&str, &str)| json!({"name": to.trim_start_matches('/'), "hostPath": {"path": from}});
    let mount = |(_, to): &(&str, &str)| json!({"name": to.trim_start_matches('/'), "mountPath": to, "readOnly": true});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "automountServiceAccountToken": false,
                "tolerations": [{"operator": "Exists"}],
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "web", "image": pause, "imagePullPolicy": "Never",
                    "command": ["/usr/bin/socat", "-U", "TCP-LISTEN:8080,fork,reuseaddr", "OPEN:/etc/hostname,rdonly"],
                    "volumeMounts": mounts.iter().map(mount).collect::<Vec<_>>(),
                    "readinessProbe": {"tcpSocket": {"port": 8080}, "timeoutSeconds": 15},
                }],
                "volumes": mounts.iter().map(volume).collect::<Vec<_>>(),
            }},
        }},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
            "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}],
        }},
    ]})
}

fn check_apiserver_restart(testbed: &Testbed) -> Result<()> {
    let victim = testbed.member("m1")?;
    let requests = RequestMonitor::start(testbed.vm("n0")?, DOMAIN)?;
    testbed.vm("m1")?.shell("pkill -KILL -x kube-apiserver")?;
    let server = format!("{}:6443", victim.address);
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
