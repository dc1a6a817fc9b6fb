//! Topologies that look right and cannot work, and the classes that they stand for.

use imagegen::documents::Writer;
use imagegen::pki::{issue, store::Pki};
use imagegen::topology::check;
use userdata::network::Network;

use crate::work::PROD;

/// The one-line findings of `text`.
pub(crate) fn findings(text: &str) -> Vec<String> {
    match check::read("cluster.yaml", text) {
        Ok(checked) => checked
            .warnings
            .iter()
            .map(|found| found.one_line())
            .collect(),
        Err(found) => found.lines().collect(),
    }
}

/// Fails unless `text` has exactly one finding, an error that contains `part`.
pub(crate) fn only_error(text: &str, part: &str) {
    let found = findings(text);
    assert!(
        found.len() == 1 && found[0].contains(": error: ") && found[0].contains(part),
        "expected `{part}`, got {found:#?}\n{text}"
    );
}

fn with_pods(pods: &str, args: &str) -> String {
    PROD.replace("pods: 10.244.0.0/16", &format!("pods: {pods}")) + "\n" + args
}

const V6: &str = r#"apiVersion: firstlight/v1
kind: Cluster
name: prod
apiserver: { vip: "fd00:a::2" }
network: { pods: "PODS", services: "fd00:96::/112", gateway: "fd00:7::1" }
hosts:
- { name: m0, role: master, address: "fd00:7::10/64", mac: "52:54:00:00:07:10" }
"#;

#[test]
fn pod_range_without_a_part_for_each_host_is_refused() {
    only_error(
        &with_pods("10.244.0.0/24", ""),
        "10:9: error: the pod range has room for 1 of 4 hosts: each takes a /24; write a range of \
         at least /22, or smaller parts: `kubernetes: {controller_manager_args: \
         {node-cidr-mask-size: \"26\"}}`",
    );
    only_error(&with_pods("10.244.0.0/23", ""), "room for 2 of 4 hosts");
    let smaller = "kubernetes: {controller_manager_args: {node-cidr-mask-size: \"26\"}}\n";
    let own = "kubernetes: {controller_manager_args: {allocate-node-cidrs: \"false\"}}\n";
    for (pods, args) in [
        ("10.244.0.0/22", ""),
        ("10.244.0.0/24", smaller),
        ("10.244.0.0/24", own),
    ] {
        let found = findings(&with_pods(pods, args));
        assert!(found.is_empty(), "{pods} {args}: {found:#?}");
    }
}

#[test]
fn pod_range_that_kubeadm_refuses_is_refused() {
    let v6 = |pods: &str| V6.replace("PODS", pods);
    only_error(
        &v6("fd00:10::/32"),
        "5:18: error: the /64 of a node is more than 16 bits longer than the pod range: kubeadm \
         refuses it; write `fd00:10::/48` or a smaller range",
    );
    only_error(
        &v6("fd00:10:0:1::/66"),
        "the pod range is smaller than the /64 of a single node: kubeadm refuses it; write a \
         range of at least /64, or",
    );
    only_error(&with_pods("10.244.0.0/25", ""), "smaller than the /24");
    for pods in ["fd00:10::/48", "fd00:10:0:1::/64"] {
        let found = findings(&v6(pods));
        assert!(found.is_empty(), "{pods}: {found:#?}");
    }
}

#[test]
fn mask_size_flags_fit_the_address_families() {
    let args = |flag: &str, value: &str| {
        format!("kubernetes: {{controller_manager_args: {{{flag}: \"{value}\"}}}}\n")
    };
    only_error(
        &with_pods("10.244.0.0/16", &args("node-cidr-mask-size-ipv4", "25")),
        "a cluster of one address family; write `node-cidr-mask-size`",
    );
    only_error(
        &with_pods("10.244.0.0/16", &args("node-cidr-mask-size", "many")),
        "not a prefix length",
    );
    let dual = include_str!("../../../examples/dual-stack.yaml");
    assert!(findings(dual).is_empty(), "{:#?}", findings(dual));
    only_error(
        &format!("{dual}\n{}", args("node-cidr-mask-size", "25")),
        "refuses this flag in a dual-stack cluster",
    );
    only_error(
        &format!("{dual}\n{}", args("node-cidr-mask-size-ipv6", "72")),
        "more than 16 bits longer",
    );
}

#[test]
fn no_host_has_a_name_of_the_apiserver() {
    let domain = |name: &str| PROD.replace("domain: apiserver.cluster.local", name);
    only_error(
        &domain("domain: n0.prod.internal"),
        "6:11: error: `n0.prod.internal` is the name of the host `n0`",
    );
    only_error(
        &domain("domain: m1.prod.internal"),
        "the name of the host `m1`",
    );
    only_error(
        &PROD.replace("name: n0", "name: kubernetes"),
        "21:11: error: `kubernetes` is a name of the apiserver",
    );
    for name in [
        "n0",
        "n0.prod.internal",
        "'*.prod.internal'",
        "192.168.7.20",
    ] {
        only_error(
            &domain(&format!("names: [{name}]")),
            "is a name of the worker `n0`, not of the apiserver",
        );
    }
    only_error(
        &domain("names: [k8s.example.com, K8S]"),
        "neither an IP address nor a DNS name",
    );
    only_error(
        &domain("names: [k8s.example.com, k8s.example.com]"),
        "duplicate",
    );
    let fine = domain("names: [k8s.example.com, '*.k8s.example.com', m1.prod.internal, 'fd00::1']");
    assert!(findings(&fine).is_empty(), "{:#?}", findings(&fine));
}

#[test]
fn the_first_address_family_decides_vip_and_node_addresses() {
    let dual = include_str!("../../../examples/dual-stack.yaml");
    let six = include_str!("../../../examples/ipv6.yaml");
    let vip = |text: &str| {
        check::read("cluster.yaml", text)
            .unwrap()
            .plan
            .apiserver
            .vip
    };
    assert_eq!(vip(dual).to_string(), "10.103.97.2");
    assert_eq!(vip(six).to_string(), "fd10:103:97::2");
    let six_first = dual
        .replace(
            "[10.244.0.0/16, \"fd00:244::/48\"]",
            "[\"fd00:244::/48\", 10.244.0.0/16]",
        )
        .replace(
            "[10.96.0.0/16, \"fd00:96::/112\"]",
            "[\"fd00:96::/112\", 10.96.0.0/16]",
        );
    let found = findings(&six_first);
    assert_eq!(found.len(), 2, "{found:#?}");
    for (finding, name) in found.iter().zip(["m0", "n0"]) {
        let part = format!(
            "error: the first address of `{name}` is not of the cluster's first address family, \
             IPv6; write `fd00:7::"
        );
        assert!(finding.contains(&part), "{finding}");
    }
    let hosts_too = six_first
        .replace(
            "[192.168.7.10/24, \"fd00:7::10/64\"]",
            "[\"fd00:7::10/64\", 192.168.7.10/24]",
        )
        .replace(
            "[192.168.7.20/24, \"fd00:7::20/64\"]",
            "[\"fd00:7::20/64\", 192.168.7.20/24]",
        );
    assert_eq!(vip(&hosts_too).to_string(), "fd10:103:97::2");
    only_error(
        &six.replace("name: six", "name: six\napiserver: { vip: 10.103.97.2 }"),
        "5:19: error: the VIP `10.103.97.2` is not of the cluster's first address family, IPv6; \
         write an address of that family, or remove the key for `fd10:103:97::2`",
    );
    only_error(
        &six.replace("name: six", "name: six\napiserver: { vip: \"fd00:7::20\" }"),
        "is the address of the host `n0`; write an address that no host, pod or service has, \
         `fd10:103:97::2`",
    );
}

#[test]
fn host_with_an_ipv6_address_ignores_router_advertisements() {
    for (text, accepts) in [
        (include_str!("../../../examples/ipv6.yaml"), Some(false)),
        (
            include_str!("../../../examples/dual-stack.yaml"),
            Some(false),
        ),
        (PROD, None),
    ] {
        let plan = check::read("cluster.yaml", text).unwrap().plan;
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::prepare(folder.path(), &plan, issue::NOT_BEFORE).unwrap();
        let writer = Writer::new(&plan, &pki).unwrap();
        let document = writer.document(&plan.hosts[0]).unwrap();
        let (network, _) = Network::parse("network-config", &document.network_config).unwrap();
        let network = network.unwrap();
        assert_eq!(network.ethernets["node"].accept_ra, accepts, "{text}");
    }
}
