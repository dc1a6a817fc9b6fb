//! kubeadm's configuration as text, for the three versions and the roles.

mod common;

use std::fs;

use firstboot::kube::documents;
use firstboot::kubeadm::config;
use serde_json::Value;
use userdata::contract;
use userdata::image_info::ImageInfo;
use userdata::node_config::{NodeConfig, Role, Security};
use userdata::runtime::Runtime;

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
fn documents_bring_encryption_and_kubelets_certificates() {
    for (kubernetes, api) in [
        ("1.20.2", "v1beta2"),
        ("1.24.17", "v1beta3"),
        ("1.33.1", "v1beta4"),
    ] {
        let node = NodeConfig {
            security: Security {
                encrypted_secrets: true,
                kubelet_certificates: true,
                client_authority: false,
            },
            ..node()
        };
        let found = |node: &NodeConfig| {
            let text = configuration(node, kubernetes, api);
            let documents = documents::parse("x", &text).unwrap();
            let of = |kind: &str| documents.iter().find(|one| one["kind"] == kind).cloned();
            let cluster = of("ClusterConfiguration").unwrap()["apiServer"].clone();
            let flag = |name: &str| match &cluster["extraArgs"] {
                Value::Object(map) => map.get(name).cloned(),
                Value::Array(list) => {
                    let entry = list.iter().find(|entry| entry["name"] == name);
                    entry.map(|entry| entry["value"].clone())
                }
                _ => None,
            };
            let (encryption, authority) = (
                flag("encryption-provider-config"),
                flag("kubelet-certificate-authority"),
            );
            let kubelet = of("KubeletConfiguration").unwrap()["tlsCertFile"].clone();
            (
                encryption,
                authority,
                cluster["extraVolumes"].clone(),
                kubelet,
            )
        };
        let (encryption, authority, volumes, kubelet) = found(&node);
        assert_eq!(encryption.unwrap(), contract::ENCRYPTION_FILE, "{api}");
        assert_eq!(authority.unwrap(), "/etc/kubernetes/pki/ca.crt");
        assert_eq!(volumes[0]["hostPath"], contract::ENCRYPTION_DIR);
        assert_eq!(kubelet, contract::KUBELET_CERTIFICATE);

        // What the topology says wins, and an older document brings nothing.
        let mut other = node.clone();
        let own = ("encryption-provider-config", "/etc/own.yaml");
        let args = &mut other.kubernetes.apiserver_args;
        args.insert(own.0.to_owned(), own.1.to_owned());
        other
            .kubernetes
            .kubelet
            .insert("serverTLSBootstrap".into(), true.into());
        let (encryption, _, volumes, kubelet) = found(&other);
        assert_eq!(encryption.unwrap(), own.1);
        assert!(volumes.is_null(), "{volumes}");
        assert!(kubelet.is_string(), "{kubelet}");
        let older = NodeConfig {
            security: Security::default(),
            ..node
        };
        let (encryption, authority, volumes, kubelet) = found(&older);
        assert_eq!((encryption, authority), (None, None));
        assert!(volumes.is_null() && kubelet.is_null());
    }
}

/// The flags that the configuration sets for a part of the control plane, in any shape.
fn extra_args(node: &NodeConfig, kubernetes: &str, api: &str, part: &str) -> Vec<(String, String)> {
    let text = configuration(node, kubernetes, api);
    let documents = documents::parse("x", &text).unwrap();
    let cluster = documents
        .iter()
        .find(|one| one["kind"] == "ClusterConfiguration");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match &cluster.unwrap()[part]["extraArgs"] {
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect(),
        Value::Array(list) => list
            .iter()
            .map(|entry| (text(&entry["name"]), text(&entry["value"])))
            .collect(),
        _ => Vec::new(),
    }
}

#[test]
fn clients_with_their_own_authority_are_accepted_and_signed_by_it_only() {
    for (kubernetes, api) in [("1.20.2", "v1beta2"), ("1.33.1", "v1beta4")] {
        let node = NodeConfig {
            security: Security {
                client_authority: true,
                ..Security::default()
            },
            ..node()
        };
        let flag = |node: &NodeConfig, part: &str, name: &str| {
            let args = extra_args(node, kubernetes, api, part);
            let found: Vec<_> = args.into_iter().filter(|arg| arg.0 == name).collect();
            assert!(found.len() < 2, "{found:?}");
            found.into_iter().next().map(|(_, value)| value)
        };
        let manager = |node: &NodeConfig, signer: &str| {
            ["cert", "key"].map(|kind| {
                let name = format!("cluster-signing-{signer}{kind}-file");
                flag(node, "controllerManager", &name)
            })
        };
        let some = |pair: [&str; 2]| pair.map(|path| Some(path.to_owned()));
        let authorities = some([contract::CLIENT_AUTHORITIES, ""])[0].clone();
        assert_eq!(flag(&node, "apiServer", "client-ca-file"), authorities);
        // The controller manager does not start with one pair for all and one for a signer.
        assert_eq!(manager(&node, ""), some(["", ""]), "{api}");
        let clients = some([
            contract::CLIENT_SIGNER_CERTIFICATE,
            contract::CLIENT_SIGNER_KEY,
        ]);
        let cluster = some(["/etc/kubernetes/pki/ca.crt", "/etc/kubernetes/pki/ca.key"]);
        assert_eq!(manager(&node, "kubelet-client-"), clients);
        assert_eq!(manager(&node, "kube-apiserver-client-"), clients);
        assert_eq!(manager(&node, "kubelet-serving-"), cluster);
        assert_eq!(manager(&node, "legacy-unknown-"), cluster);

        // The topology may sign with another authority, but not have another one accepted.
        let mut own = node.clone();
        let args = &mut own.kubernetes.controller_manager_args;
        args.insert("cluster-signing-cert-file".into(), "/own.crt".into());
        args.insert("cluster-signing-key-file".into(), "/own.key".into());
        let args = &mut own.kubernetes.apiserver_args;
        args.insert("client-ca-file".into(), "/own.crt".into());
        assert_eq!(manager(&own, ""), some(["/own.crt", "/own.key"]));
        assert_eq!(manager(&own, "kubelet-client-"), [None, None]);
        assert_eq!(flag(&own, "apiServer", "client-ca-file"), authorities);

        // An older document changes neither.
        let older = NodeConfig {
            security: Security::default(),
            ..node
        };
        assert_eq!(flag(&older, "apiServer", "client-ca-file"), None);
        assert_eq!(manager(&older, ""), [None, None]);
    }
}

#[test]
fn kube_proxy_in_ipvs_mode_leaves_the_server_of_lvscare_alone() {
    let proxy = |fields: serde_json::Value| {
        let mut node = node();
        node.kubernetes.kube_proxy = fields.as_object().unwrap().clone();
        let text = configuration(&node, "1.33.1", "v1beta4");
        let documents = documents::parse("x", &text).unwrap();
        let mut found = documents
            .into_iter()
            .filter(|one| one["kind"] == "KubeProxyConfiguration");
        found.next().unwrap()
    };
    let none = proxy(serde_json::json!({}));
    assert_eq!(none["mode"], "iptables", "the package's own");
    assert!(none.get("ipvs").is_none(), "{none}");
    let nftables = proxy(serde_json::json!({ "mode": "nftables" }));
    assert_eq!(nftables["mode"], "nftables");
    let ipvs = serde_json::json!({ "mode": "ipvs", "ipvs": { "excludeCIDRs": ["192.0.2.0/24"] } });
    assert_eq!(
        proxy(ipvs)["ipvs"]["excludeCIDRs"],
        serde_json::json!(["192.0.2.0/24", "10.103.97.2/32"])
    );
    assert_eq!(
        proxy(serde_json::json!({ "mode": "ipvs" }))["ipvs"]["excludeCIDRs"],
        serde_json::json!(["10.103.97.2/32"])
    );
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

/// The base of a package for Kubernetes 1.19 by another maker, under a newer kubeadm.
#[test]
fn foreign_base_gets_what_nodes_need() {
    let base = "apiVersion: kubeadm.k8s.io/v1beta1\nkind: ClusterConfiguration\n\
                networking: {podSubnet: 100.64.0.0/10}\nuseHyperKubeImage: false\n\
                dns: {type: CoreDNS}\n\
                controllerManager: {extraArgs: {cluster-cidr: 100.64.0.0/10, v: '2'}}\n---\n\
                kind: KubeProxyConfiguration\nmode: ipvs\nclusterCIDR: 100.64.0.0/10\n\
                ipvs: {excludeCIDRs: [192.0.2.1/32]}\n";
    let base = documents::parse("kubeadm.yaml", base).unwrap();
    let node = node();
    let made = config::kubeadm(&node, &image("1.31.0", "v1beta4"), base).unwrap();
    let of = |kind: &str| {
        made.iter()
            .find(|document| document["kind"] == kind)
            .unwrap()
    };
    let pods = node.network.pods[0].to_string();
    let cluster = of("ClusterConfiguration");
    assert_eq!(cluster["apiVersion"], "kubeadm.k8s.io/v1beta4");
    assert_eq!(cluster["networking"]["podSubnet"], pods);
    assert!(cluster["useHyperKubeImage"].is_null() && cluster["dns"]["type"].is_null());
    let flags = cluster["controllerManager"]["extraArgs"]
        .as_array()
        .unwrap();
    let flag = |name: &str| flags.iter().find(|flag| flag["name"] == name).unwrap();
    assert_eq!(flag("cluster-cidr")["value"], pods);
    assert_eq!(flag("v")["value"], "2");
    let proxy = of("KubeProxyConfiguration");
    assert_eq!(proxy["clusterCIDR"], pods);
    let vip = format!("{}/32", node.apiserver.vip);
    let excluded = serde_json::json!(["192.0.2.1/32", vip]);
    assert_eq!(proxy["ipvs"]["excludeCIDRs"], excluded);
}

/// kubeadm knows docker by the bare path of dockershim's socket, in every release that has it.
#[test]
fn each_runtime_has_its_socket_and_sandbox_image() {
    for (runtime, kubernetes, api, socket, sandbox) in [
        (
            Runtime::Dockershim,
            "1.20.2",
            "v1beta2",
            "/var/run/dockershim.sock",
            true,
        ),
        (
            Runtime::Dockershim,
            "1.23.17",
            "v1beta3",
            "/var/run/dockershim.sock",
            true,
        ),
        (
            Runtime::CriDockerd,
            "1.24.17",
            "v1beta3",
            "unix:///run/cri-dockerd.sock",
            false,
        ),
    ] {
        let image = ImageInfo {
            runtime,
            ..image(kubernetes, api)
        };
        let documents = config::kubeadm(&node(), &image, Vec::new()).unwrap();
        let init = documents
            .iter()
            .find(|document| document["kind"] == "InitConfiguration")
            .unwrap();
        let registration = &init["nodeRegistration"];
        assert_eq!(registration["criSocket"], socket);
        let flag = &registration["kubeletExtraArgs"]["pod-infra-container-image"];
        let wanted = sandbox.then_some(image.pause_image.as_str());
        assert_eq!(flag.as_str(), wanted, "{runtime}");
    }
}
