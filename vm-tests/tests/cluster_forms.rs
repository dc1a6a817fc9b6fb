//! Three masters and a node, switched on together and left alone, are one cluster that works.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use vm_tests::asking::{Asking, wait_for_servers};
use vm_tests::formed;
use vm_tests::site::Site;
use vm_tests::whole::is_ready;

const MASTERS: [&str; 3] = ["m0", "m1", "m2"];
const HOSTS: [&str; 4] = ["m0", "m1", "m2", "n0"];
const DOMAIN: &str = "apiserver.cluster.local";

// Forming takes a quarter of an hour without KVM: claims that do not disturb one another share it.
#[test]
#[ignore = "needs 20 minutes without KVM; run: cargo test -p vm-tests -- --include-ignored"]
fn three_masters_and_a_worker_form_a_cluster() -> Result<()> {
    let Some(mut site) = Site::new("cluster_forms", "ha")? else {
        return Ok(());
    };
    site.start_all()?;
    for (name, ready) in site.wait_ready()? {
        let boot = ready.since_boot().unwrap_or_default();
        println!(
            "{name}: ready {:.0} s after power-on by its own clock",
            boot.as_secs_f64()
        );
    }
    site.is_whole()?;
    formed::keep(&site)?;

    the_topology_is_what_is_there(&site)?;
    any_master_takes_the_administrator(&site)?;
    a_node_has_its_own_way_to_the_masters(&site)?;
    pods_and_services_are_reached_from_every_host(&site)?;
    a_killed_apiserver_leaves_the_table_and_returns(&site)?;
    site.is_whole()?;
    site.passed();
    Ok(())
}

fn the_topology_is_what_is_there(site: &Site) -> Result<()> {
    let nodes = site.nodes_are_ready("m0")?;
    let node = |name: &str| {
        let items = nodes["items"].as_array().into_iter().flatten();
        let mut named = items.filter(|node| node["metadata"]["name"] == name);
        named.next().with_context(|| format!("no node {name}"))
    };
    let worker = node("n0")?;
    assert_eq!(worker["metadata"]["labels"]["disk"], "ssd", "{worker}");
    let taints = |name: &str| -> Result<Vec<String>> {
        let taints = node(name)?["spec"]["taints"].as_array();
        let of_the_topology = |taint: &&serde_json::Value| {
            // Kubernetes' own come and go.
            let key = taint["key"].as_str().unwrap_or_default();
            !key.starts_with("node.kubernetes.io/")
        };
        Ok(taints
            .into_iter()
            .flatten()
            .filter(of_the_topology)
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
            ["node-role.kubernetes.io/master=:NoSchedule"],
            "{master}"
        );
    }
    Ok(())
}

fn any_master_takes_the_administrator(site: &Site) -> Result<()> {
    for master in MASTERS {
        // A write, and through the authority, name and certificate that admin.conf has for all of them.
        let name = format!("by-way-of-{master}");
        site.kubectl(master, &["create", "configmap", &name])?;
    }
    let names = site.kubectl("m0", &["get", "configmaps", "-o", "name"])?;
    for master in MASTERS {
        assert!(
            names.contains(&format!("configmap/by-way-of-{master}")),
            "{names}"
        );
    }
    Ok(())
}

fn a_node_has_its_own_way_to_the_masters(site: &Site) -> Result<()> {
    let node = site.vm("n0")?;
    assert_eq!(
        node.ok("ls /etc/kubernetes/manifests")?.trim(),
        "lvscare.yaml"
    );
    wait_for_servers(node, Duration::from_secs(60), &site.cluster.apiservers(&[]))?;
    let hosts = node.ok("cat /etc/hosts")?;
    let leads = |name: &str, address: &str| {
        hosts.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(address) && words.any(|word| word == name)
        })
    };
    assert!(leads(DOMAIN, "10.103.97.2"), "{hosts}");
    for member in &site.cluster.members {
        assert!(leads(&member.name, &member.address.to_string()), "{hosts}");
    }
    // A master needs no way round: the domain is itself there.
    for master in site.cluster.masters() {
        let hosts = site
            .vm(&master.name)?
            .ok(&format!("grep {DOMAIN} /etc/hosts"))?;
        let addresses: Vec<_> = hosts
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert_eq!(addresses, [master.address.to_string()], "{}", master.name);
    }
    Ok(())
}

fn pods_and_services_are_reached_from_every_host(site: &Site) -> Result<()> {
    site.apply("m0", "web", &web(&site.pause_image("n0")?))?;
    site.kubectl(
        "m0",
        &["rollout", "status", "daemonset/web", "--timeout=3000s"],
    )?;
    let pods = site.get(
        "m0",
        "/api/v1/namespaces/default/pods?labelSelector=app%3Dweb",
    )?;
    let service = site.get("m0", "/api/v1/namespaces/default/services/web")?;
    let service = service["spec"]["clusterIP"]
        .as_str()
        .context("no address")?
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
            text("/spec/nodeName").context("a pod without a node")?,
            text("/metadata/name").context("a pod without a name")?,
            text("/status/podIP").context("a pod without an address")?,
        ));
    }
    let hosts: BTreeSet<_> = pods_by_host
        .iter()
        .map(|(host, ..)| host.as_str())
        .collect();
    assert_eq!(hosts, BTreeSet::from(HOSTS), "a pod on every host");

    for from in HOSTS {
        let vm = site.vm(from)?;
        // In the pod's own network, with the host's programs. A host hears of routes and Services when it gets to it, and
        // what socat says of the last try is what a failure is known by.
        let ask = |address: &str| {
            format!(
                "pod=$(pgrep -o -f TCP-LISTEN:8080)\n\
                 for try in 1 2 3 4 5 6 7 8 9 10; do\n\
                 nsenter -n -t $pod timeout 30 socat -u TCP:{address} STDOUT 2>/run/asked && exit\n\
                 sleep 2\n\
                 done\n\
                 cat /run/asked >&2; exit 1"
            )
        };
        for (to, pod, address) in &pods_by_host {
            let answer = vm
                .ok(&ask(&format!("{address}:8080")))
                .with_context(|| format!("from the pod on {from} to the one on {to}"))?;
            assert_eq!(answer.trim(), pod, "from {from} to {to}");
        }
        let answer = vm
            .ok(&ask(&format!("{service}:80")))
            .with_context(|| format!("from the pod on {from} to the Service"))?;
        let known = pods_by_host.iter().any(|(_, pod, _)| pod == answer.trim());
        assert!(known, "the Service answers `{answer}` on {from}");
    }
    Ok(())
}

/// A pod on every host that tells its name to whoever connects. The package's images hold nothing that serves, so the
/// pause image is the empty root in which the host's own programs are mounted.
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

fn a_killed_apiserver_leaves_the_table_and_returns(site: &Site) -> Result<()> {
    let victim = site.member("m1")?;
    let asking = Asking::start(site.vm("n0")?, DOMAIN)?;
    site.vm("m1")?.ok("pkill -KILL -x kube-apiserver")?;
    let server = format!("{}:6443", victim.address);
    asking.wait_for_table(Duration::from_secs(120), &server, false)?;
    asking.wait_for_table(Duration::from_secs(360), &server, true)?;
    let report = asking.stop()?;
    println!("an apiserver killed while a node asks: {report}");
    ensure!(
        report
            .requests
            .iter()
            .filter(|request| request.is_ok())
            .count()
            > 10,
        "too few requests to say anything: {report}"
    );
    let failed = report.failed_without(&server);
    ensure!(
        failed.is_empty(),
        "requests failed although the dead server was out of the table: {failed:?}; {report}"
    );
    Ok(())
}
