//! One broken field at a time, each found at its path and nothing else with it.

use super::*;
use yaml;

const GOOD: &str = "apiVersion: firstlight/v1
kind: Node
cluster: prod
role: master
name: m1
addresses: [192.168.7.11/24, \"fd07::11/64\"]
masters: [{name: m0, address: 192.168.7.10}, {name: m1, address: 192.168.7.11}]
apiserver: {domain: apiserver.cluster.local, port: 6443, vip: 10.103.97.2}
network: {pods: [10.244.0.0/16, \"fd01::/48\"], services: [10.96.0.0/12, \"fd02::/112\"]}
hosts: [{address: 192.168.7.10, names: [m0, m0.example.com]}]
labels: {disk: ssd, example.com/zone: \"\"}
taints: [\"dedicated=gpu:NoSchedule\", \"only:NoExecute\"]
";

fn problems(text: &str) -> Vec<String> {
    let parsed = yaml::parse("node.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
    node(&parsed.value)
        .into_iter()
        .map(|problem| problem.path)
        .collect()
}

#[test]
fn dual_stack_node_is_valid() {
    assert_eq!(problems(GOOD), Vec::<String>::new());
}

#[test]
fn invalid_field_is_reported_by_path() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("firstlight/v1", "firstlight/v9", &["apiVersion"]),
        ("kind: Node", "kind: Cluster", &["kind"]),
        ("cluster: prod", "cluster: -prod", &["cluster"]),
        ("name: m1\n", "name: M1\n", &["name", "name"]),
        ("name: m1\n", "name: m2\n", &["name"]),
        ("role: master", "role: master0", &["role"]),
        ("role: master", "role: node", &["masters[1].name"]),
        (
            "192.168.7.11/24",
            "192.168.7.12/24",
            &["masters[1].address"],
        ),
        (
            "192.168.7.11/24",
            "192.168.7.0/24",
            &["addresses[0]", "masters[1].address"],
        ),
        (
            "192.168.7.11/24",
            "127.0.0.1/8",
            &["addresses[0]", "masters[1].address"],
        ),
        ("fd07::11/64", "fd01::11/64", &["addresses[1]"]),
        ("fd07::11/64", "192.168.7.11/25", &["addresses[1]"]),
        ("{name: m0,", "{name: m1,", &["masters[1].name", "role"]),
        (
            "address: 192.168.7.10},",
            "address: 192.168.7.11},",
            &["masters[1].address"],
        ),
        ("port: 6443", "port: 0", &["apiserver.port"]),
        (
            "domain: apiserver.cluster.local",
            "domain: a_b",
            &["apiserver.domain"],
        ),
        ("vip: 10.103.97.2", "vip: 127.0.0.2", &["apiserver.vip"]),
        (
            "vip: 10.103.97.2",
            "vip: \"::1\"",
            &["apiserver.vip", "apiserver.vip"],
        ),
        ("vip: 10.103.97.2", "vip: 224.0.0.1", &["apiserver.vip"]),
        ("vip: 10.103.97.2", "vip: 10.244.3.4", &["apiserver.vip"]),
        ("vip: 10.103.97.2", "vip: 192.168.7.10", &["apiserver.vip"]),
        ("10.244.0.0/16", "10.244.1.0/16", &["network.pods[0]"]),
        ("10.244.0.0/16", "10.100.0.0/16", &["network.services[0]"]),
        ("\"fd01::/48\"", "10.245.0.0/16", &["network.pods[1]"]),
        (
            "pods: [10.244.0.0/16, \"fd01::/48\"]",
            "pods: []",
            &["network.pods"],
        ),
        (
            "names: [m0, m0.example.com]",
            "names: []",
            &["hosts[0].names"],
        ),
        (
            "m0.example.com",
            "apiserver.cluster.local",
            &["hosts[0].names[1]"],
        ),
        ("disk: ssd", "disk: \"a b\"", &["labels[\"disk\"]"]),
        ("disk: ssd", "-disk: ssd", &["labels[\"-disk\"]"]),
        ("only:NoExecute", "only", &["taints[1]"]),
        ("only:NoExecute", "a b:NoExecute", &["taints[1]"]),
    ];
    for (good, bad, paths) in cases {
        assert!(GOOD.contains(good), "{good}");
        assert_eq!(problems(&GOOD.replacen(good, bad, 1)), *paths, "{bad}");
    }
}

#[test]
fn vip_in_service_range_is_accepted_on_the_node() {
    assert!(overlap(
        &"10.96.0.0/12".parse().expect("range"),
        &"10.103.97.2/32".parse().expect("range")
    ));
    assert_eq!(problems(GOOD), Vec::<String>::new());
}
