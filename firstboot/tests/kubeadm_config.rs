//! kubeadm's configuration as text, for the three versions and the roles.

mod common;

use std::fs;

use firstboot::kube::documents;
use firstboot::kubeadm::config;
use userdata::image_info::ImageInfo;
use userdata::node_config::{NodeConfig, Role};

use common::fixture;

fn node() -> NodeConfig {
    yaml::parse(
        "node.yaml",
        &fs::read_to_string(fixture("node.yaml")).unwrap(),
    )
    .unwrap()
    .value
}

fn image(kubernetes: &str, api: &str) -> ImageInfo {
    let text = fs::read(fixture("root/usr/share/firstlight/image.json")).unwrap();
    let image: ImageInfo = serde_json::from_slice(&text).unwrap();
    ImageInfo {
        kubernetes_version: kubernetes.into(),
        kubeadm_api_version: format!("kubeadm.k8s.io/{api}"),
        coredns_image: (api != "v1beta2").then(|| "registry.k8s.io/coredns/coredns:v1.15.0".into()),
        ..image
    }
}

fn configuration(node: &NodeConfig, kubernetes: &str, api: &str) -> String {
    let base = fs::read_to_string(fixture("root/usr/share/firstlight/conf/kubeadm.yaml")).unwrap();
    let base = documents::parse("kubeadm.yaml", &base).unwrap();
    documents::to_text(&config::kubeadm(node, &image(kubernetes, api), base).unwrap())
}

#[test]
fn init_for_v1beta2() {
    insta::assert_snapshot!(configuration(&node(), "1.20.2", "v1beta2"));
}

#[test]
fn init_for_v1beta3() {
    insta::assert_snapshot!(configuration(&node(), "1.24.17", "v1beta3"));
}

#[test]
fn init_for_v1beta4() {
    insta::assert_snapshot!(configuration(&node(), "1.33.1", "v1beta4"));
}

#[test]
fn join_as_master_for_v1beta2() {
    let node = NodeConfig {
        role: Role::Master,
        ..node()
    };
    insta::assert_snapshot!(configuration(&node, "1.20.2", "v1beta2"));
}

#[test]
fn join_as_node_for_v1beta4() {
    let node = NodeConfig {
        role: Role::Node,
        taints: None,
        ..node()
    };
    insta::assert_snapshot!(configuration(&node, "1.33.1", "v1beta4"));
}

#[test]
fn empty_taints_reach_kubeadm_as_an_empty_list() {
    for (role, kubernetes, api, kind) in [
        (Role::Master0, "1.20.2", "v1beta2", "InitConfiguration"),
        (Role::Master, "1.33.1", "v1beta4", "JoinConfiguration"),
    ] {
        let taints = |taints| {
            let node = NodeConfig {
                role,
                taints,
                ..node()
            };
            let text = configuration(&node, kubernetes, api);
            let documents = documents::parse("x", &text).unwrap();
            let document = documents.iter().find(|one| one["kind"] == kind).unwrap();
            document["nodeRegistration"].get("taints").cloned()
        };
        assert_eq!(taints(Some(Vec::new())), Some(serde_json::json!([])));
        assert_eq!(taints(None), None, "kubeadm applies its own");
    }
}

#[test]
fn kubelet_of_a_dual_stack_cluster_gets_an_address_of_each_family() {
    let node_ip = |pods: &[&str]| {
        let mut node = NodeConfig {
            addresses: ["192.168.7.10/24", "192.168.7.110/24", "fd00:7::10/64"]
                .map(|address| address.parse().unwrap())
                .into(),
            ..node()
        };
        node.network.pods = pods.iter().map(|range| range.parse().unwrap()).collect();
        config::node_ip(&node).unwrap()
    };
    assert_eq!(
        node_ip(&["10.244.0.0/16", "fd00:9::/56"]),
        "192.168.7.10,fd00:7::10"
    );
    assert_eq!(node_ip(&["10.244.0.0/16"]), "192.168.7.10");
}

#[test]
fn unknown_version_is_named() {
    let error = config::kubeadm(&node(), &image("1.40.0", "v1"), Vec::new())
        .unwrap_err()
        .to_string();
    assert!(error.contains("`kubeadm.k8s.io/v1`"), "{error}");
}

#[test]
fn serde_yaml_reads_every_version_alike() {
    use serde::Deserialize;
    for (kubernetes, api) in [
        ("1.20.2", "v1beta2"),
        ("1.24.17", "v1beta3"),
        ("1.33.1", "v1beta4"),
    ] {
        let text = configuration(&node(), kubernetes, api);
        let foreign: Vec<serde_json::Value> = serde_yaml::Deserializer::from_str(&text)
            .map(|one| serde_json::Value::deserialize(one).unwrap())
            .collect();
        assert_eq!(documents::parse("x", &text).unwrap(), foreign, "{api}");
    }
}
