//! Completing the manifests of pod networks with the cluster's pod ranges and its apiserver.
//!
//! Upstream's manifests carry an example range. kubeadm, the controller manager and the pod network
//! must agree on the topology's, so firstboot sets it wherever a manifest of flannel or Calico
//! names one. A DaemonSet of the host network that names an apiserver by itself gets the cluster's
//! domain, which each host resolves.

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use serde_json::{Value, json};
use userdata::node_config::Apiserver;

/// Sets pod ranges and apiserver in every object that names them.
pub fn complete(objects: &mut [Value], pods: &[IpNet], apiserver: &Apiserver) -> Result<()> {
    let v4 = pods.iter().find(|range| range.addr().is_ipv4());
    let v6 = pods.iter().find(|range| range.addr().is_ipv6());
    for object in objects {
        if object["kind"] == "ConfigMap"
            && let Some(text) = object["data"]["net-conf.json"].as_str()
        {
            let text = flannel(text, v4, v6).with_context(|| {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                format!("completing `net-conf.json` of ConfigMap `{name}`")
            })?;
            object["data"]["net-conf.json"] = text.into();
        }
        if object["kind"] == "DaemonSet" {
            calico(object, v4, v6);
            if pods.first().is_some_and(|range| range.addr().is_ipv6()) {
                flannel_v6_address(object);
            }
            apiserver_of_host_network(object, apiserver);
        }
    }
    Ok(())
}

/// flannel's `net-conf.json`: other keys, the backend above all, stay as they are.
fn flannel(text: &str, v4: Option<&IpNet>, v6: Option<&IpNet>) -> Result<String> {
    let mut config: Value = serde_json::from_str(text).context("not JSON")?;
    let map = config.as_object_mut().context("not a JSON object")?;
    map.insert("EnableIPv4".into(), v4.is_some().into());
    map.insert("EnableIPv6".into(), v6.is_some().into());
    for (key, range) in [("Network", v4), ("IPv6Network", v6)] {
        match range {
            Some(range) => map.insert(key.into(), json!(range)),
            None => map.remove(key),
        };
    }
    Ok(serde_json::to_string_pretty(&config)?)
}

/// The pools that calico-node creates at its first start; a manifest without them takes kubeadm's
/// ranges by itself.
fn calico(object: &mut Value, v4: Option<&IpNet>, v6: Option<&IpNet>) {
    let Some(containers) = object["spec"]["template"]["spec"]["containers"].as_array_mut() else {
        return;
    };
    for variable in containers
        .iter_mut()
        .filter_map(|container| container["env"].as_array_mut())
        .flatten()
    {
        let range = match variable["name"].as_str() {
            Some("CALICO_IPV4POOL_CIDR") => v4,
            Some("CALICO_IPV6POOL_CIDR") => v6,
            _ => None,
        };
        if let Some(range) = range {
            variable["value"] = json!(range);
        }
    }
}

/// Where IPv6 comes first, the node's address that `--iface` names is an IPv6 one. flannel of both
/// families looks for an interface only by an IPv4 address or by this flag.
fn flannel_v6_address(object: &mut Value) {
    const IFACE: &str = "--iface=$(";
    let Some(containers) = object["spec"]["template"]["spec"]["containers"].as_array_mut() else {
        return;
    };
    for arguments in containers
        .iter_mut()
        .filter_map(|container| container["args"].as_array_mut())
    {
        let texts = || arguments.iter().filter_map(Value::as_str);
        let is_given = texts().any(|text| text.starts_with("--public-ipv6"));
        let variable = texts().find_map(|text| text.strip_prefix(IFACE));
        if let Some(variable) = variable.filter(|_| !is_given) {
            let flag = format!("--public-ipv6=$({variable}");
            arguments.push(flag.into());
        }
    }
}

/// A pod of the host network that names its apiserver by itself does not wait for kube-proxy. Pods
/// of the pod network do not resolve the domain.
fn apiserver_of_host_network(object: &mut Value, apiserver: &Apiserver) {
    let spec = &mut object["spec"]["template"]["spec"];
    if spec["hostNetwork"] != true {
        return;
    }
    let Some(containers) = spec["containers"].as_array_mut() else {
        return;
    };
    for variable in containers
        .iter_mut()
        .filter_map(|container| container["env"].as_array_mut())
        .flatten()
    {
        let value = match variable["name"].as_str() {
            Some("KUBERNETES_SERVICE_HOST") => apiserver.domain.clone(),
            Some("KUBERNETES_SERVICE_PORT") => apiserver.port.to_string(),
            _ => continue,
        };
        variable["value"] = value.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apiserver() -> Apiserver {
        let text = r#"{"domain": "api.lab", "port": 7443, "vip": "10.103.97.2"}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn host_network_pods_get_the_domain_of_the_apiserver() {
        for (host_network, host) in [(true, "api.lab"), (false, "example")] {
            let mut objects = [json!({
                "kind": "DaemonSet",
                "spec": { "template": { "spec": { "hostNetwork": host_network, "containers": [{ "env": [
                    { "name": "KUBERNETES_SERVICE_HOST", "value": "example" },
                    { "name": "OTHER", "value": "kept" },
                ] }] } } },
            })];
            complete(&mut objects, &ranges(&["10.9.0.0/16"]), &apiserver()).unwrap();
            let env = &objects[0]["spec"]["template"]["spec"]["containers"][0]["env"];
            assert_eq!(env[0]["value"], host);
            assert_eq!(env[1]["value"], "kept");
        }
    }

    #[test]
    fn flannel_gets_its_ipv6_address_where_that_family_comes_first() {
        for (pods, arguments) in [
            (
                &["10.9.0.0/16", "fd00:9::/56"][..],
                json!(["--iface=$(HOST_IP)"]),
            ),
            (
                &["fd00:9::/56", "10.9.0.0/16"][..],
                json!(["--iface=$(HOST_IP)", "--public-ipv6=$(HOST_IP)"]),
            ),
        ] {
            let mut objects = [json!({
                "kind": "DaemonSet",
                "spec": { "template": { "spec": { "hostNetwork": true, "containers": [
                    { "args": ["--iface=$(HOST_IP)"] },
                ] } } },
            })];
            // Twice: the flag is added once.
            for _ in 0..2 {
                complete(&mut objects, &ranges(pods), &apiserver()).unwrap();
            }
            let container = &objects[0]["spec"]["template"]["spec"]["containers"][0];
            assert_eq!(container["args"], arguments);
        }
    }

    fn ranges(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn flannel_map() -> Value {
        json!({
            "kind": "ConfigMap",
            "metadata": { "name": "kube-flannel-cfg" },
            "data": {
                "cni-conf.json": "{}",
                "net-conf.json": "{\"Network\": \"10.244.0.0/16\", \"Backend\": {\"Type\": \"vxlan\"}}",
            },
        })
    }

    #[test]
    fn flannel_gets_the_ranges_of_the_topology() {
        for (pods, network, network6) in [
            (&["10.9.0.0/16"][..], json!("10.9.0.0/16"), Value::Null),
            (&["fd00:9::/56"][..], Value::Null, json!("fd00:9::/56")),
            (
                &["10.9.0.0/16", "fd00:9::/56"][..],
                json!("10.9.0.0/16"),
                json!("fd00:9::/56"),
            ),
        ] {
            let mut objects = [flannel_map()];
            complete(&mut objects, &ranges(pods), &apiserver()).unwrap();
            let text = objects[0]["data"]["net-conf.json"].as_str().unwrap();
            let config: Value = serde_json::from_str(text).unwrap();
            assert_eq!(config["Network"], network, "{pods:?}");
            assert_eq!(config["IPv6Network"], network6, "{pods:?}");
            assert_eq!(config["EnableIPv6"], json!(!network6.is_null()));
            assert_eq!(config["Backend"]["Type"], "vxlan");
            assert_eq!(objects[0]["data"]["cni-conf.json"], "{}");
        }
    }

    #[test]
    fn calicos_pool_follows_the_topology_where_the_manifest_names_one() {
        let mut objects = [json!({
            "kind": "DaemonSet",
            "spec": { "template": { "spec": { "containers": [{ "env": [
                { "name": "CALICO_IPV4POOL_CIDR", "value": "192.168.0.0/16" },
                { "name": "IP", "value": "autodetect" },
            ] }] } } },
        })];
        complete(&mut objects, &ranges(&["10.9.0.0/16"]), &apiserver()).unwrap();
        let env = &objects[0]["spec"]["template"]["spec"]["containers"][0]["env"];
        assert_eq!(env[0]["value"], "10.9.0.0/16");
        assert_eq!(env[1]["value"], "autodetect");
    }

    #[test]
    fn broken_net_conf_is_reported_with_its_config_map() {
        let mut object = flannel_map();
        object["data"]["net-conf.json"] = "{".into();
        let error = complete(&mut [object], &ranges(&["10.9.0.0/16"]), &apiserver()).unwrap_err();
        assert!(
            format!("{error:#}").contains("`kube-flannel-cfg`"),
            "{error:#}"
        );
    }
}
