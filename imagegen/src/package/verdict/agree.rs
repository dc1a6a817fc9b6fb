//! The package's networks against those of the topology: what firstboot sets instead, and what
//! cannot be reconciled.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::manifest::Object;
use super::super::manifest::reader::Node;
use super::base::{CLUSTER, INIT, KUBELET, PROXY};
use super::conf::Setting;
use super::{State, Verdict};
use crate::plan::ClusterPlan;

/// Where a topology says what a package says too: `cluster.yaml:9:9`.
pub(crate) trait Places {
    /// Of a key such as `network.pods`, which may be missing.
    fn place(&self, key: &str) -> Option<String>;
    /// The topology's own name.
    fn file(&self) -> &str;
}

/// The default that sealos's packages and cluster images ship, which no user chose.
const SHIPPED: [&str; 3] = ["100.64.0.0/10", "10.96.0.0/22", "10.96.0.0/12"];

/// A pod range in a manifest.
#[derive(Debug)]
pub(crate) struct PodRange {
    place: String,
    what: String,
    value: String,
    /// Whether firstboot sets it to the topology's.
    completed: bool,
}

impl Verdict {
    /// Flags of kube-controller-manager in the package.
    pub(crate) fn controller_manager_args(&self) -> BTreeMap<String, String> {
        let flags = self.base.flags("controllerManager").into_iter();
        flags.map(|(name, own)| (name, own.value)).collect()
    }

    /// What the image changes of the package's files, for every cluster.
    pub(crate) fn image_changes(&self) -> Vec<String> {
        let changed = self
            .parts
            .iter()
            .filter(|part| part.state == State::Changed);
        let parts = changed.map(|part| format!("{}: {}", part.name, part.detail));
        parts.chain(self.manifest_changes.iter().cloned()).collect()
    }

    /// What firstboot changes of the package's files for this cluster, or every contradiction.
    pub(crate) fn agree(
        &self,
        plan: &ClusterPlan,
        places: &dyn Places,
    ) -> Result<Vec<String>, Vec<String>> {
        let mut found = Found {
            places,
            changes: Vec::new(),
            errors: Vec::new(),
        };
        self.networks(plan, &mut found);
        self.endpoint(plan, &mut found);
        self.dns(plan, &mut found);
        self.flags(plan, &mut found);
        self.proxy(plan, &mut found);
        for range in &self.pod_ranges {
            found.manifest(range, &plan.network.pods);
        }
        if found.errors.is_empty() {
            Ok(found.changes)
        } else {
            Err(found.errors)
        }
    }

    fn networks(&self, plan: &ClusterPlan, found: &mut Found<'_>) {
        for (path, key, ranges) in [
            ("podSubnet", "network.pods", &plan.network.pods),
            ("serviceSubnet", "network.services", &plan.network.services),
        ] {
            let own = self.base.setting(CLUSTER, &["networking", path]);
            found.range(own, &format!("networking.{path}"), key, ranges);
        }
        let of = |component: &str, flag: &str| {
            let own = self.base.flag(component, flag);
            (own, format!("{component}.extraArgs.{flag}"))
        };
        let (own, what) = of("controllerManager", "cluster-cidr");
        found.range(own, &what, "network.pods", &plan.network.pods);
        for component in ["apiServer", "controllerManager"] {
            let (own, what) = of(component, "service-cluster-ip-range");
            found.range(own, &what, "network.services", &plan.network.services);
        }
    }

    fn endpoint(&self, plan: &ClusterPlan, found: &mut Found<'_>) {
        let endpoint = format!("{}:{}", plan.apiserver.domain, plan.apiserver.port);
        let own = self.base.setting(CLUSTER, &["controlPlaneEndpoint"]);
        let differs = own.filter(|own| !own.value.is_empty() && own.value != endpoint);
        if let Some(own) = differs {
            let topology = found.topology("apiserver", &format!("nodes use `{endpoint}`"));
            found.errors.push(format!(
                "{}: controlPlaneEndpoint is `{}`, and {topology}; write `apiserver: {{domain, \
                 port}}` in the topology, or remove it from the package",
                own.place, own.value
            ));
        }
        for (kind, path) in [
            (CLUSTER, &["clusterName"][..]),
            (INIT, &["localAPIEndpoint", "advertiseAddress"]),
            (INIT, &["localAPIEndpoint", "bindPort"]),
            (INIT, &["nodeRegistration", "name"]),
            (INIT, &["nodeRegistration", "criSocket"]),
        ] {
            if let Some(own) = self.base.setting(kind, path)
                && !(path == ["clusterName"] && own.value == plan.name)
            {
                found.changes.push(format!(
                    "{}: `{}` is each host's or cluster's own, and not `{}`",
                    own.place,
                    path.join("."),
                    own.value
                ));
            }
        }
    }

    /// CoreDNS has the tenth address of the service range.
    fn dns(&self, plan: &ClusterPlan, found: &mut Found<'_>) {
        for own in self.base.list(KUBELET, &["clusterDNS"]) {
            let Ok(address) = own.value.parse::<IpAddr>() else {
                continue;
            };
            let tenth = plan.network.services.iter().filter_map(tenth);
            if !tenth.into_iter().any(|tenth| tenth == address) {
                let text = format!("services are in {}", list(&plan.network.services));
                let topology = found.topology("network.services", &text);
                found.errors.push(format!(
                    "{}: clusterDNS is `{address}`, and {topology}, whose tenth address CoreDNS \
                     has; remove it",
                    own.place
                ));
            }
        }
    }

    fn flags(&self, plan: &ClusterPlan, found: &mut Found<'_>) {
        let settings = &plan.kubernetes;
        for (component, key, flags) in [
            ("apiServer", "apiserver_args", &settings.apiserver_args),
            (
                "controllerManager",
                "controller_manager_args",
                &settings.controller_manager_args,
            ),
            ("scheduler", "scheduler_args", &settings.scheduler_args),
        ] {
            for (name, own) in self.base.flags(component) {
                if let Some(given) = flags.get(&name).filter(|given| **given != own.value) {
                    let key = format!("kubernetes.{key}");
                    let topology = found.topology(&key, &format!("`{given}` takes its place"));
                    found.changes.push(format!(
                        "{}: {name} is `{}`; {topology}",
                        own.place, own.value
                    ));
                }
            }
        }
    }

    /// kube-proxy removes what it did not make from a table of IPVS that lvscare shares.
    fn proxy(&self, plan: &ClusterPlan, found: &mut Found<'_>) {
        let mode = self.base.setting(PROXY, &["mode"]);
        if let Some(mode) = mode.filter(|mode| mode.value == "ipvs") {
            let vip = IpNet::from(plan.apiserver.vip);
            let has = self.base.list(PROXY, &["ipvs", "excludeCIDRs"]);
            if has.iter().all(|own| own.value != vip.to_string()) {
                found.changes.push(format!(
                    "{}: `ipvs.excludeCIDRs` gets `{vip}`, the apiserver's address on workers",
                    mode.place
                ));
            }
        }
        let own = self.base.setting(PROXY, &["clusterCIDR"]);
        found.range(own, "clusterCIDR", "network.pods", &plan.network.pods);
    }
}

struct Found<'a> {
    places: &'a dyn Places,
    changes: Vec<String>,
    errors: Vec<String>,
}

impl Found<'_> {
    /// `cluster.yaml:9:9: WHAT`, or what the topology has where it says nothing.
    fn topology(&self, key: &str, what: &str) -> String {
        match self.places.place(key) {
            Some(place) => format!("by {place} {what}"),
            None => format!(
                "by default, as {} has no `{key}`, {what}",
                self.places.file()
            ),
        }
    }

    fn range(&mut self, own: Option<Setting>, what: &str, key: &str, ranges: &[IpNet]) {
        let Some(own) = own.filter(|own| !own.value.is_empty() && !same(&own.value, ranges)) else {
            return;
        };
        let topology = self.topology(key, &format!("it is `{}`", list(ranges)));
        if SHIPPED.contains(&own.value.as_str()) {
            self.changes.push(format!(
                "{}: {what} is `{}`; {topology}",
                own.place, own.value
            ));
            return;
        }
        self.errors.push(format!(
            "{}: {what} is `{}`, and {topology}; write the same in both, or remove it from the \
             package",
            own.place, own.value
        ));
    }

    fn manifest(&mut self, range: &PodRange, pods: &[IpNet]) {
        if same(&range.value, pods) || pods.iter().any(|pod| same(&range.value, &[*pod])) {
            return;
        }
        let topology = self.topology("network.pods", &format!("pods are in `{}`", list(pods)));
        if range.completed {
            self.changes.push(format!(
                "{}{} is `{}`; {topology}",
                range.place, range.what, range.value
            ));
        } else {
            self.errors.push(format!(
                "{}{} is `{}`, and {topology}; write the same in both",
                range.place, range.what, range.value
            ));
        }
    }
}

fn list(ranges: &[IpNet]) -> String {
    let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    texts.join(",")
}

fn same(text: &str, ranges: &[IpNet]) -> bool {
    let own: Result<Vec<IpNet>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    own.is_ok_and(|own| own == ranges)
}

fn tenth(range: &IpNet) -> Option<IpAddr> {
    Some(match range.network() {
        IpAddr::V4(v4) => IpAddr::from(u32::from(v4).checked_add(10)?.to_be_bytes()),
        IpAddr::V6(v6) => IpAddr::from(u128::from(v6).checked_add(10)?.to_be_bytes()),
    })
}

/// The pod ranges that manifests of known pod networks name.
pub(super) fn pod_ranges(objects: &[Object]) -> Vec<PodRange> {
    let mut found = Vec::new();
    for object in objects {
        let mut add = |node: &Node, what: &str, value: &str, completed: bool| {
            found.push(PodRange {
                place: object.at(node.place),
                what: what.to_owned(),
                value: value.to_owned(),
                completed,
            });
        };
        let text = |path: &[&str]| {
            let node = object.node.at(path)?;
            Some((node, node.str()?.to_owned()))
        };
        match object.kind.as_str() {
            "DaemonSet" => {
                let path = ["spec", "template", "spec", "containers"];
                let containers = object.node.at(&path).map(Node::items).unwrap_or_default();
                let variables = containers
                    .iter()
                    .flat_map(|c| c.get("env").map(Node::items).unwrap_or_default());
                for variable in variables {
                    let name = variable.get("name").and_then(Node::str).unwrap_or_default();
                    let value = variable.get("value");
                    let Some((node, value)) = value.and_then(|v| Some((v, v.str()?))) else {
                        continue;
                    };
                    match name {
                        "CALICO_IPV4POOL_CIDR" | "CALICO_IPV6POOL_CIDR" => {
                            add(node, name, value, true);
                        }
                        // Weave Net.
                        "IPALLOC_RANGE" => add(node, name, value, false),
                        _ => {}
                    }
                }
            }
            "ConfigMap" => {
                if let Some((node, json)) = text(&["data", "net-conf.json"]) {
                    let config: serde_json::Value = serde_json::from_str(&json).unwrap_or_default();
                    for key in ["Network", "IPv6Network"] {
                        if let Some(value) = config[key].as_str() {
                            add(node, &format!("`net-conf.json`: {key}"), value, true);
                        }
                    }
                }
                // Cilium.
                for key in ["cluster-pool-ipv4-cidr", "cluster-pool-ipv6-cidr"] {
                    if let Some((node, value)) = text(&["data", key]) {
                        add(node, key, &value.replace(' ', ","), false);
                    }
                }
            }
            // Calico's own objects, which its node does not make then.
            "IPPool" => {
                if let Some((node, value)) = text(&["spec", "cidr"]) {
                    add(node, "cidr", &value, false);
                }
            }
            "Installation" => {
                let pools = object.node.at(&["spec", "calicoNetwork", "ipPools"]);
                for pool in pools.map(Node::items).unwrap_or_default() {
                    if let Some((node, value)) =
                        pool.get("cidr").and_then(|node| Some((node, node.str()?)))
                    {
                        add(node, "cidr", value, false);
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether a pod of `objects` mounts the default folder of FlexVolume plugins.
pub(super) fn mounts_flex_volumes(objects: &[Object]) -> bool {
    objects.iter().any(|object| {
        let volumes = object.node.at(&["spec", "template", "spec", "volumes"]);
        let volumes = volumes.map(Node::items).unwrap_or_default();
        volumes.iter().any(|volume| {
            let path = volume.at(&["hostPath", "path"]).and_then(Node::str);
            path.is_some_and(|path| path.starts_with("/usr/libexec/kubernetes"))
        })
    })
}
