//! Pods reach each other, the Service of all of them and its name, over each address family of the
//! cluster.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::invariants::is_ready;
use crate::cluster::testbed::Testbed;

/// Connects from a pod to the socat address `$1`.
const POD_REQUEST: &str = include_str!("../pod_request.sh");
/// Looks the name `$1` up in a pod, by the server at the socat address `$2`; `$3` is the type.
const POD_LOOKUP: &str = include_str!("../pod_lookup.sh");
const SERVICE_NAME: &str = "web.default.svc.cluster.local";

/// Which pods each host's pod connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The pods of all hosts.
    All,
    /// The pod of the next host in the topology: a ring, which costs a third of the time.
    Next,
}

/// One pod of the DaemonSet.
struct Pod {
    host: String,
    name: String,
    addresses: Vec<IpAddr>,
}

/// Starts a pod on every host, and fails unless each reaches others, the Service of all of them, and
/// that Service by its name, over each address family. `worker` is any worker.
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
    let pods = pods(testbed)?;
    let hosts: BTreeSet<_> = pods.iter().map(|pod| pod.host.as_str()).collect();
    let expected: BTreeSet<_> = names.iter().map(String::as_str).collect();
    ensure!(
        hosts == expected,
        "pods run on {hosts:?}, the hosts are {expected:?}"
    );
    let service = cluster_ips(testbed, "default", "web")?;
    let ranges = &testbed.cluster.plan.network.services;
    let each = |addresses: &[IpAddr]| {
        addresses.len() == ranges.len()
            && ranges
                .iter()
                .all(|range| addresses.iter().any(|ip| range.contains(ip)))
    };
    ensure!(
        each(&service),
        "the Service has {service:?}, the ranges are {ranges:?}"
    );
    let dns = cluster_ips(testbed, "kube-system", "kube-dns")?;
    for (at, from) in names.iter().enumerate() {
        let next = &names[(at + 1) % names.len()];
        let wanted = |pod: &&Pod| reach == Reach::All || pod.host == *next;
        for pod in pods.iter().filter(wanted) {
            for address in &pod.addresses {
                let answer = connect(testbed, from, *address, 8080).with_context(|| {
                    format!(
                        "connecting from the pod on {from} to the pod on {}",
                        pod.host
                    )
                })?;
                ensure!(answer == pod.name, "from {from} to {address}: {answer}");
            }
        }
        for address in &service {
            let answer = connect(testbed, from, *address, 80)
                .with_context(|| format!("connecting from the pod on {from} to the Service"))?;
            ensure!(
                pods.iter().any(|pod| pod.name == answer),
                "on {from} the Service at {address} answers `{answer}`, which is not a pod"
            );
            for server in &dns {
                let found = look_up(testbed, from, *server, *address).with_context(|| {
                    format!("looking up {SERVICE_NAME} at {server} in the pod on {from}")
                })?;
                ensure!(
                    found == *address,
                    "on {from} {SERVICE_NAME} is {found}, not {address}"
                );
            }
        }
    }
    Ok(())
}

/// The pods of the DaemonSet. Each has an address of each range of the cluster.
fn pods(testbed: &Testbed) -> Result<Vec<Pod>> {
    let list = testbed.get(
        "m0",
        "/api/v1/namespaces/default/pods?labelSelector=app%3Dweb",
    )?;
    let ranges = &testbed.cluster.plan.network.pods;
    let items = list["items"].as_array().into_iter().flatten();
    let pods = items.map(|pod| {
        ensure!(is_ready(pod), "{}", pod["status"]);
        let text = |pointer: &str| {
            let value = pod.pointer(pointer).and_then(Value::as_str);
            value
                .map(String::from)
                .with_context(|| format!("no {pointer} in {pod}"))
        };
        let listed = pod["status"]["podIPs"].as_array().into_iter().flatten();
        let addresses = listed
            .filter_map(|one| one["ip"].as_str())
            .map(|ip| ip.parse().with_context(|| format!("`{ip}`")))
            .collect::<Result<Vec<IpAddr>>>()?;
        let has_each = ranges
            .iter()
            .all(|range| addresses.iter().any(|ip| range.contains(ip)));
        ensure!(
            has_each && addresses.len() == ranges.len(),
            "a pod has {addresses:?}, the ranges are {ranges:?}"
        );
        Ok(Pod {
            host: text("/spec/nodeName")?,
            name: text("/metadata/name")?,
            addresses,
        })
    });
    pods.collect()
}

/// The addresses of a Service.
fn cluster_ips(testbed: &Testbed, namespace: &str, name: &str) -> Result<Vec<IpAddr>> {
    let service = testbed.get(
        "m0",
        &format!("/api/v1/namespaces/{namespace}/services/{name}"),
    )?;
    let listed = service["spec"]["clusterIPs"].as_array();
    let listed = listed.with_context(|| format!("the Service {name} has no clusterIPs"))?;
    let parsed = listed.iter().filter_map(Value::as_str).map(str::parse);
    Ok(parsed.collect::<Result<_, _>>()?)
}

/// What the server at `address` sends to a client in the pod on `from`.
fn connect(testbed: &Testbed, from: &str, address: IpAddr, port: u16) -> Result<String> {
    let target = socat("TCP", address, port);
    let answer = testbed
        .vm(from)?
        .shell(&format!("set -- '{target}'\n{POD_REQUEST}"))?;
    Ok(answer.trim().to_owned())
}

/// The Service's address of the family of `like`, as `server` answers in the pod on `from`.
fn look_up(testbed: &Testbed, from: &str, server: IpAddr, like: IpAddr) -> Result<IpAddr> {
    let target = socat("UDP", server, 53);
    // A or AAAA.
    let kind = if like.is_ipv4() { 1 } else { 28 };
    let found = testbed.vm(from)?.shell(&format!(
        "set -- '{SERVICE_NAME}' '{target}' {kind}\n{POD_LOOKUP}"
    ))?;
    let found = found.trim();
    found.parse().with_context(|| format!("`{found}`"))
}

/// An address as socat takes it.
fn socat(protocol: &str, address: IpAddr, port: u16) -> String {
    let family = if address.is_ipv4() { 4 } else { 6 };
    format!("{protocol}{family}:{}", SocketAddr::new(address, port))
}

/// A pod on every host that sends its name to each client, over each address family. The package has
/// no image with a server, so the pod is the pause image with the host's programs mounted.
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
                    // The address `::` takes clients of both families; `-d -d` logs that it listens.
                    "command": [
                        "/usr/bin/socat", "-d", "-d", "-U",
                        "TCP6-LISTEN:8080,fork,reuseaddr,ipv6only=0", "OPEN:/etc/hostname,rdonly",
                    ],
                    // For `kubectl cp`, which looks tar up and writes to the pod's root.
                    "env": [{"name": "PATH", "value": "/usr/bin"}],
                    "securityContext": {"runAsUser": 0},
                    "volumeMounts": mounts.iter().map(mount).collect::<Vec<_>>(),
                    "readinessProbe": {"tcpSocket": {"port": 8080}, "timeoutSeconds": 15},
                }],
                "volumes": mounts.iter().map(volume).collect::<Vec<_>>(),
            }},
        }},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
            "ipFamilyPolicy": "PreferDualStack", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}],
        }},
    ]})
}
