//! kubeadm's configuration: the package's base, completed with what the node file and the image
//! file say.
//!
//! Pure: data in, documents out. Writing and running are the steps'.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use userdata::image_info::ImageInfo;
use userdata::node_config::{NodeConfig, Role};
use userdata::runtime::Runtime;

use super::documents::{Api, Documents, arguments, default_arguments, section, shutdown_delay};
use super::security;

/// kubeadm waits this long for the control plane unless the topology says otherwise. Its own four
/// minutes are too few for a slow machine, and firstboot waits itself, without a limit.
const CONTROL_PLANE_TIMEOUT_SECONDS: u32 = 1800;

/// As Go reads a duration.
const HUNDRED_YEARS: &str = "876000h0m0s";

/// Brought by the documents of hosts that join.
const DISCOVERY: &str = "/etc/kubernetes/discovery.conf";

/// The kubeadm configuration for this host's role: `kubeadm init`'s documents on master0, `kubeadm
/// join`'s elsewhere.
///
/// `base` holds the documents of the package's `conf/kubeadm.yaml`. What both say, the node file
/// wins.
pub fn kubeadm(node: &NodeConfig, image: &ImageInfo, base: Vec<Value>) -> Result<Vec<Value>> {
    let api = match image.kubeadm_api_version.as_str() {
        "kubeadm.k8s.io/v1beta2" => Api::V1Beta2,
        "kubeadm.k8s.io/v1beta3" => Api::V1Beta3,
        "kubeadm.k8s.io/v1beta4" => Api::V1Beta4,
        other => bail!(
            "the image's kubeadm reads `{other}`, which firstboot does not write (v1beta2, v1beta3 and v1beta4)"
        ),
    };
    let mut documents = Documents {
        api,
        version: image.kubeadm_api_version.clone(),
        all: base,
    };
    if node.role == Role::Master0 {
        init(&mut documents, node, image)?;
        cluster(&mut documents, node, image)?;
        kubelet(&mut documents, node)?;
        kube_proxy(&mut documents, node)?;
        documents.remove("JoinConfiguration");
    } else {
        join(&mut documents, node, image)?;
        for kind in [
            "InitConfiguration",
            "ClusterConfiguration",
            "KubeletConfiguration",
            "KubeProxyConfiguration",
        ] {
            documents.remove(kind);
        }
    }
    Ok(documents.all)
}

fn init(documents: &mut Documents, node: &NodeConfig, image: &ImageInfo) -> Result<()> {
    let api = documents.api;
    let document = documents.kubeadm("InitConfiguration")?;
    document.insert("localAPIEndpoint".into(), local_endpoint(node)?);
    register(section(document, "nodeRegistration")?, node, image, api)?;
    if api >= Api::V1Beta4 {
        timeouts(document, node)?;
    }
    Ok(())
}

fn join(documents: &mut Documents, node: &NodeConfig, image: &ImageInfo) -> Result<()> {
    let api = documents.api;
    let document = documents.kubeadm("JoinConfiguration")?;
    let discovery = section(document, "discovery")?;
    // The document's discovery file names the endpoint, carries the authority and this kubelet's
    // client certificate, so no token is shared and nothing expires on the shelf.
    discovery.clear();
    discovery.insert("file".into(), json!({ "kubeConfigPath": DISCOVERY }));
    if api < Api::V1Beta4 {
        discovery.insert("timeout".into(), seconds(timeout(node)));
    }
    register(section(document, "nodeRegistration")?, node, image, api)?;
    if node.role == Role::Master {
        document.insert(
            "controlPlane".into(),
            json!({ "localAPIEndpoint": local_endpoint(node)? }),
        );
    }
    if api >= Api::V1Beta4 {
        timeouts(document, node)?;
    }
    Ok(())
}

fn cluster(documents: &mut Documents, node: &NodeConfig, image: &ImageInfo) -> Result<()> {
    let api = documents.api;
    let document = documents.kubeadm("ClusterConfiguration")?;
    let settings = &node.kubernetes;
    document.insert("clusterName".into(), node.cluster.clone().into());
    document.insert(
        "kubernetesVersion".into(),
        format!("v{}", image.kubernetes_version).into(),
    );
    document.insert(
        "imageRepository".into(),
        image.image_repository.clone().into(),
    );
    let endpoint = format!("{}:{}", node.apiserver.domain, node.apiserver.port);
    document.insert("controlPlaneEndpoint".into(), endpoint.into());
    let networking = section(document, "networking")?;
    networking.insert("podSubnet".into(), ranges(&node.network.pods).into());
    networking.insert(
        "serviceSubnet".into(),
        ranges(&node.network.services).into(),
    );
    // A feature gate before 1.21, gone after 1.24.
    if node.network.pods.len() > 1 && minor(image)? < 21 {
        section(document, "featureGates")?.insert("IPv6DualStack".into(), true.into());
    }

    if let Some((repository, tag)) = image.coredns_image.as_deref().and_then(coredns) {
        let dns = section(document, "dns")?;
        dns.insert("imageRepository".into(), repository.into());
        dns.insert("imageTag".into(), tag.into());
    }
    if api >= Api::V1Beta4 {
        // A certificate that kubeadm renews is valid as long as those that imagegen makes.
        for key in ["certificateValidityPeriod", "caCertificateValidityPeriod"] {
            document.entry(key).or_insert_with(|| HUNDRED_YEARS.into());
        }
    }
    // A base of an older format has keys that this one does not know.
    if api >= Api::V1Beta3 {
        document.remove("useHyperKubeImage");
        if let Some(dns) = document.get_mut("dns").and_then(Value::as_object_mut) {
            dns.remove("type");
        }
    }
    let pods = ranges(&node.network.pods);
    let services = ranges(&node.network.services);
    let apiserver = section(document, "apiServer")?;
    replace(apiserver, "service-cluster-ip-range", &services);
    if api >= Api::V1Beta4 {
        apiserver.remove("timeoutForControlPlane");
    }
    arguments(apiserver, "extraArgs", &settings.apiserver_args, api)?;
    security::apiserver(apiserver, node.security, api)?;
    default_arguments(apiserver, "extraArgs", shutdown_delay(), api)?;
    if api < Api::V1Beta4 {
        apiserver.insert("timeoutForControlPlane".into(), seconds(timeout(node)));
    }
    let manager = section(document, "controllerManager")?;
    replace(manager, "service-cluster-ip-range", &services);
    replace(manager, "cluster-cidr", &pods);
    arguments(manager, "extraArgs", &settings.controller_manager_args, api)?;
    security::controller_manager(manager, node.security, api)?;
    arguments(
        section(document, "scheduler")?,
        "extraArgs",
        &settings.scheduler_args,
        api,
    )?;
    let etcd = section(section(document, "etcd")?, "local")?;
    etcd.entry("dataDir")
        .or_insert_with(|| "/var/lib/etcd".into());
    etcd.insert("imageTag".into(), image.etcd_image_tag.clone().into());
    arguments(etcd, "extraArgs", &settings.etcd_args, api)
}

/// The repository above `coredns` and the tag, as kubeadm's `dns` section wants them.
fn coredns(image: &str) -> Option<(&str, &str)> {
    let (name, tag) = image.rsplit_once(':')?;
    let (repository, _) = name.rsplit_once('/')?;
    Some((repository, tag))
}

fn kubelet(documents: &mut Documents, node: &NodeConfig) -> Result<()> {
    let document = documents.get("KubeletConfiguration", "kubelet.config.k8s.io/v1beta1")?;
    // kubeadm before 1.22 leaves the kubelet's `cgroupfs`, which fights with systemd over one tree.
    document
        .entry("cgroupDriver")
        .or_insert_with(|| "systemd".into());
    security::kubelet(document, node.security);
    for (key, value) in &node.kubernetes.kubelet {
        document.insert(key.clone(), value.clone());
    }
    Ok(())
}

/// The topology's fields, and its pod range where the base names one. In IPVS mode kube-proxy removes
/// every virtual server that is not of a Service, but not those in `excludeCIDRs`: lvscare's stays.
fn kube_proxy(documents: &mut Documents, node: &NodeConfig) -> Result<()> {
    const KIND: &str = "KubeProxyConfiguration";
    let fields = &node.kubernetes.kube_proxy;
    if fields.is_empty()
        && !documents
            .all
            .iter()
            .any(|document| document["kind"] == KIND)
    {
        return Ok(());
    }
    let document = documents.get(KIND, "kubeproxy.config.k8s.io/v1alpha1")?;
    for (key, value) in fields {
        document.insert(key.clone(), value.clone());
    }
    let names_pods = document.get("clusterCIDR").and_then(Value::as_str);
    if names_pods.is_some_and(|range| !range.is_empty()) {
        document.insert("clusterCIDR".into(), ranges(&node.network.pods).into());
    }
    if document.get("mode").and_then(Value::as_str) != Some("ipvs") {
        return Ok(());
    }
    let vip = Value::from(IpNet::from(node.apiserver.vip).to_string());
    let excluded = section(document, "ipvs")?
        .entry("excludeCIDRs")
        .or_insert(Value::Null);
    match excluded {
        Value::Array(list) if list.contains(&vip) => {}
        Value::Array(list) => list.push(vip),
        Value::Null => *excluded = json!([vip]),
        _ => bail!("`ipvs.excludeCIDRs` of `{KIND}` in `kubeadm.yaml` is not a list"),
    }
    Ok(())
}

/// Replaces the value of a flag that the base gives, in the shape of any version.
fn replace(section: &mut Map<String, Value>, flag: &str, value: &str) {
    match section.get_mut("extraArgs") {
        Some(Value::Object(map)) => {
            if let Some(own) = map.get_mut(flag) {
                *own = value.into();
            }
        }
        Some(Value::Array(list)) => {
            for item in list.iter_mut().filter(|item| item["name"] == flag) {
                item["value"] = value.into();
            }
        }
        _ => {}
    }
}

fn register(
    section: &mut Map<String, Value>,
    node: &NodeConfig,
    image: &ImageInfo,
    api: Api,
) -> Result<()> {
    section.insert("name".into(), node.name.clone().into());
    let socket = image.runtime.socket();
    // Without a scheme kubeadm takes it for a path of its own making and warns. It knows docker by
    // the bare path.
    let socket = match image.runtime {
        Runtime::Containerd | Runtime::CriDockerd if api >= Api::V1Beta3 => {
            format!("unix://{socket}")
        }
        _ => socket.to_owned(),
    };
    section.insert("criSocket".into(), socket.into());
    let mut flags = BTreeMap::from([("node-ip".to_owned(), node_ip(node)?)]);
    if image.runtime == Runtime::Dockershim {
        // kubelet itself starts the sandboxes; kubeadm names the image of its own release, which
        // the package need not have.
        flags.insert(
            "pod-infra-container-image".into(),
            image.pause_image.clone(),
        );
    }
    if !node.labels.is_empty() {
        let labels: Vec<_> = node
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        flags.insert("node-labels".into(), labels.join(","));
    }
    arguments(section, "kubeletExtraArgs", &flags, api)?;
    if let Some(given) = &node.taints {
        let mut taints = given
            .iter()
            .map(|taint| parse_taint(taint))
            .collect::<Result<Vec<_>>>()?;
        if node.role != Role::Node && !given.is_empty() {
            // kubeadm adds the control plane's taint only without a list; an empty list means no
            // taints.
            let minor = minor(image)?;
            if minor < 25 {
                taints.push(
                    json!({ "key": "node-role.kubernetes.io/master", "effect": "NoSchedule" }),
                );
            }
            if minor >= 24 {
                taints.push(json!({ "key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule" }));
            }
        }
        section.insert("taints".into(), taints.into());
    }
    Ok(())
}

/// v1beta4's section for what was spread before.
fn timeouts(document: &mut Map<String, Value>, node: &NodeConfig) -> Result<()> {
    let limit = seconds(timeout(node));
    let timeouts = section(document, "timeouts")?;
    for key in [
        "controlPlaneComponentHealthCheck",
        "kubeletHealthCheck",
        "kubernetesAPICall",
        "discovery",
    ] {
        timeouts.insert(key.into(), limit.clone());
    }
    Ok(())
}

/// `key=value:Effect` or `key:Effect`.
fn parse_taint(text: &str) -> Result<Value> {
    let (head, effect) = text
        .rsplit_once(':')
        .with_context(|| format!("taint `{text}` has no effect"))?;
    Ok(match head.split_once('=') {
        Some((key, value)) => json!({ "key": key, "value": value, "effect": effect }),
        None => json!({ "key": head, "effect": effect }),
    })
}

fn local_endpoint(node: &NodeConfig) -> Result<Value> {
    Ok(json!({ "advertiseAddress": address(node)?, "bindPort": node.apiserver.port }))
}

fn address(node: &NodeConfig) -> Result<String> {
    let first = node
        .addresses
        .first()
        .context("the node file has no address")?;
    Ok(first.addr().to_string())
}

/// kubelet's `--node-ip`: the host's first address and, in a dual-stack cluster, its first one of the
/// other family. Without that the node has no address of that family in the API.
pub fn node_ip(node: &NodeConfig) -> Result<String> {
    let first = node
        .addresses
        .first()
        .context("the node file has no address")?
        .addr();
    let is_dual_stack = [true, false].iter().all(|v4| {
        node.network
            .pods
            .iter()
            .any(|range| range.addr().is_ipv4() == *v4)
    });
    let second = node
        .addresses
        .iter()
        .map(|address| address.addr())
        .find(|address| is_dual_stack && address.is_ipv4() != first.is_ipv4());
    Ok(match second {
        Some(second) => format!("{first},{second}"),
        None => first.to_string(),
    })
}

fn ranges(ranges: &[IpNet]) -> String {
    ranges
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn timeout(node: &NodeConfig) -> u32 {
    node.kubernetes
        .control_plane_timeout_seconds
        .unwrap_or(CONTROL_PLANE_TIMEOUT_SECONDS)
}

/// As Go reads a duration.
fn seconds(seconds: u32) -> Value {
    format!("{seconds}s").into()
}

fn minor(image: &ImageInfo) -> Result<u32> {
    let version = &image.kubernetes_version;
    let minor = version
        .split('.')
        .nth(1)
        .and_then(|minor| minor.parse().ok());
    minor.with_context(|| {
        format!("the image's Kubernetes version `{version}` is not `major.minor.patch`")
    })
}
