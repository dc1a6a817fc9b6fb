//! What clients of a formed cluster expect of it, as checks that several tests use.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::cluster::invariants::is_ready;
use crate::cluster::testbed::Testbed;
use crate::observe::request_monitor::wait_for_servers;

/// Connects from a pod to the address `$1`.
const POD_REQUEST: &str = include_str!("pod_request.sh");
/// Looks the name `$1` up in a pod, by the server `$2`.
const POD_LOOKUP: &str = include_str!("pod_lookup.sh");
const SERVICE_NAME: &str = "web.default.svc.cluster.local";

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
    ensure!(maps(DOMAIN, "10.103.97.2"), "{hosts}");
    for member in &testbed.cluster.members {
        ensure!(maps(&member.name, &member.address.to_string()), "{hosts}");
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

/// Which pods each host's pod connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The pods of all hosts.
    All,
    /// The pod of the next host in the topology: a ring, which costs a third of the time.
    Next,
}

/// Starts a pod on every host, and fails unless each reaches others, the Service of all of them, and
/// that Service by its name. `worker` is any worker.
pub fn pods_and_services(testbed: &Testbed, worker: &str, reach: Reach) -> Result<()> {
    let names: Vec<_> = testbed
        .cluster
        .members
        .iter()
        .map(|member| member.name.clone())
        .collect();
    testbed.apply("m0", "web", &web(&testbed.pause_image(worker)?))?;
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
    let expected: BTreeSet<_> = names.iter().map(String::as_str).collect();
    ensure!(
        hosts == expected,
        "pods run on {hosts:?}, the hosts are {expected:?}"
    );

    let dns = testbed.get("m0", "/api/v1/namespaces/kube-system/services/kube-dns")?;
    let dns = dns["spec"]["clusterIP"]
        .as_str()
        .context("the Service kube-dns has no clusterIP")?;
    for from in &names {
        let vm = testbed.vm(from)?;
        let request = |address: &str| format!("set -- '{address}'\n{POD_REQUEST}");
        let at = names.iter().position(|name| name == from).unwrap_or(0);
        let next = &names[(at + 1) % names.len()];
        for (to, pod, address) in &pods_by_host {
            if reach == Reach::Next && to != next {
                continue;
            }
            let answer = vm
                .shell(&request(&format!("{address}:8080")))
                .with_context(|| format!("connecting from the pod on {from} to the pod on {to}"))?;
            ensure!(answer.trim() == pod, "from {from} to {to}: {answer}");
        }
        let answer = vm
            .shell(&request(&format!("{service}:80")))
            .with_context(|| format!("connecting from the pod on {from} to the Service"))?;
        let known = pods_by_host.iter().any(|(_, pod, _)| pod == answer.trim());
        ensure!(
            known,
            "on {from} the Service answers `{answer}`, which is not a pod"
        );
        let found = vm
            .shell(&format!("set -- '{SERVICE_NAME}' '{dns}'\n{POD_LOOKUP}"))
            .with_context(|| format!("looking up {SERVICE_NAME} in the pod on {from}"))?;
        ensure!(
            found.split_whitespace().next() == Some(&service),
            "on {from} {SERVICE_NAME} is {found}"
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
