//! Checks of a node file as a whole, including rules over more than one field.
//!
//! Pure: a problem names the path of its field; [`parsed_node`] adds the position in the text.

#[cfg(test)]
mod tests;

use ipnet::IpNet;

use crate::contract::API_VERSION;
use crate::node_config::{NodeConfig, Role};
use crate::value::{Invalid, dns_name, host_name, label_key, label_value, overlap, taint, vip};
use yaml::{Diagnostics, Parsed};

/// An [`Invalid`] with the path of its field: `masters[1].address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub path: String,
    pub message: String,
    pub help: Option<String>,
}

impl Invalid {
    fn at(self, path: impl Into<String>) -> Problem {
        Problem {
            path: path.into(),
            message: self.message,
            help: self.help,
        }
    }
}

/// Everything wrong with `node`, in the order of its fields.
pub fn node(node: &NodeConfig) -> Vec<Problem> {
    let mut found = Vec::new();
    if node.api_version != API_VERSION {
        found.push(
            Invalid::new(
                "unknown version of the node file",
                format!("write `{API_VERSION}`"),
            )
            .at("apiVersion"),
        );
    }
    if node.kind != "Node" {
        found.push(Invalid::new("not a node file", "write `Node`").at("kind"));
    }
    if let Err(invalid) = host_name(&node.cluster) {
        found.push(invalid.at("cluster"));
    }
    if let Err(invalid) = host_name(&node.name) {
        found.push(invalid.at("name"));
    }
    addresses(node, &mut found);
    masters(node, &mut found);
    apiserver(node, &mut found);
    ranges(node, &mut found);
    hosts(node, &mut found);
    for (key, value) in &node.labels {
        let at = format!("labels[\"{key}\"]");
        found.extend(label_key(key).err().map(|invalid| invalid.at(&at)));
        found.extend(label_value(value).err().map(|invalid| invalid.at(&at)));
    }
    for (i, text) in node.taints.iter().flatten().enumerate() {
        found.extend(
            taint(text)
                .err()
                .map(|invalid| invalid.at(format!("taints[{i}]"))),
        );
    }
    if node.kubernetes.control_plane_timeout_seconds == Some(0) {
        found.push(
            Invalid::without_help("the timeout must be at least one second")
                .at("kubernetes.control_plane_timeout_seconds"),
        );
    }
    found
}

/// [`node`] with the positions of the text it was read from.
pub fn parsed_node(parsed: &Parsed<NodeConfig>) -> Diagnostics {
    let problems = node(&parsed.value).into_iter();
    let mut found = Diagnostics(
        problems
            .map(|p| parsed.spans.error_at(&p.path, p.message, p.help))
            .collect(),
    );
    found.sort();
    found
}

fn addresses(node: &NodeConfig, found: &mut Vec<Problem>) {
    if node.addresses.is_empty() {
        found.push(Invalid::without_help("no address given").at("addresses"));
    }
    for (i, net) in node.addresses.iter().enumerate() {
        let at = format!("addresses[{i}]");
        let address = net.addr();
        let is_net = net.max_prefix_len() - net.prefix_len() > 1
            && (address == net.network() || (address.is_ipv4() && address == net.broadcast()));
        if address.is_loopback() || address.is_unspecified() || address.is_multicast() || is_net {
            found.push(Invalid::without_help("not an address of a single host").at(at));
        } else if node.addresses[..i]
            .iter()
            .any(|earlier| earlier.addr() == address)
        {
            found.push(Invalid::without_help("the address is listed twice").at(at));
        }
    }
}

fn masters(node: &NodeConfig, found: &mut Vec<Problem>) {
    if node.masters.is_empty() {
        found
            .push(Invalid::new("no master given", "list all masters, master0 first").at("masters"));
    }
    for (i, master) in node.masters.iter().enumerate() {
        found.extend(
            host_name(&master.name)
                .err()
                .map(|invalid| invalid.at(format!("masters[{i}].name"))),
        );
        let earlier = &node.masters[..i];
        if earlier.iter().any(|other| other.name == master.name) {
            found.push(
                Invalid::without_help("two masters have this name")
                    .at(format!("masters[{i}].name")),
            );
        }
        if earlier.iter().any(|other| other.address == master.address) {
            found.push(
                Invalid::without_help("two masters have this address")
                    .at(format!("masters[{i}].address")),
            );
        }
    }
    let position = node
        .masters
        .iter()
        .position(|master| master.name == node.name);
    match (node.role, position) {
        (Role::Node, Some(i)) => {
            found.push(
                Invalid::without_help("this host's role is `node`, but it is listed as a master")
                    .at(format!("masters[{i}].name")),
            );
        }
        (Role::Node, None) => {}
        (_, None) if node.masters.is_empty() => {}
        (_, None) => found.push(
            Invalid::new(
                "this master is not in the list of masters",
                "`name` must be one of `masters[].name`",
            )
            .at("name"),
        ),
        (Role::Master0, Some(i)) if i > 0 => {
            found.push(
                Invalid::new(
                    "only the first master of the list is `master0`",
                    "write `master`",
                )
                .at("role"),
            );
        }
        (Role::Master, Some(0)) => {
            found.push(
                Invalid::new(
                    "the first master of the list is `master0`",
                    "write `master0`",
                )
                .at("role"),
            );
        }
        (_, Some(i)) => {
            if !node.addresses.is_empty()
                && node.addresses.first().map(IpNet::addr) != Some(node.masters[i].address)
            {
                found.push(
                    Invalid::new(
                        "not this host's first address",
                        "kubeadm advertises `addresses[0]`; the other hosts connect to this address",
                    )
                    .at(format!("masters[{i}].address")),
                );
            }
        }
    }
}

fn apiserver(node: &NodeConfig, found: &mut Vec<Problem>) {
    let api = &node.apiserver;
    found.extend(
        dns_name(&api.domain)
            .err()
            .map(|invalid| invalid.at("apiserver.domain")),
    );
    if api.port == 0 {
        found.push(Invalid::new("not a port", "the apiserver's own is 6443").at("apiserver.port"));
    }
    let at = "apiserver.vip";
    if let Err(invalid) = vip(api.vip) {
        found.push(invalid.at(at));
    }
    // The service range is not checked: sealos' VIP lies in Kubernetes' default one. imagegen warns
    // about it when it can still be changed; an error here would only stop a working cluster.
    if let Some(range) = node
        .network
        .pods
        .iter()
        .find(|range| range.contains(&api.vip))
    {
        found.push(
            Invalid::new(
                format!("the VIP lies in the pod range {range}"),
                "choose an address outside all ranges",
            )
            .at(at),
        );
    }
    let own = node.addresses.iter().map(IpNet::addr);
    let others = node
        .masters
        .iter()
        .map(|m| m.address)
        .chain(node.hosts.iter().map(|h| h.address));
    if own.chain(others).any(|address| address == api.vip) {
        found.push(
            Invalid::new(
                "the VIP is a host's address",
                "every node holds the VIP itself; choose one that no host has",
            )
            .at(at),
        );
    }
    if let Some(master) = node
        .masters
        .iter()
        .find(|master| master.address.is_ipv4() != api.vip.is_ipv4())
    {
        found.push(
            Invalid::new(
                format!(
                    "the VIP and the address of master `{}` are of different families",
                    master.name
                ),
                "IPVS balances within one family",
            )
            .at(at),
        );
    }
}

fn ranges(node: &NodeConfig, found: &mut Vec<Problem>) {
    let (pods, services) = (&node.network.pods, &node.network.services);
    for (name, nets) in [("pods", pods), ("services", services)] {
        let at = format!("network.{name}");
        if nets.is_empty() {
            found.push(Invalid::without_help("no range given").at(&at));
        }
        for (i, net) in nets.iter().enumerate() {
            if net.addr() != net.network() {
                found.push(
                    Invalid::new(
                        "the range has host bits set",
                        format!("write `{}`", net.trunc()),
                    )
                    .at(format!("{at}[{i}]")),
                );
            }
            if nets[..i]
                .iter()
                .any(|earlier| earlier.addr().is_ipv4() == net.addr().is_ipv4())
            {
                found.push(
                    Invalid::new(
                        "a second range of the same family",
                        "one range for each address family",
                    )
                    .at(format!("{at}[{i}]")),
                );
            }
        }
    }
    for (i, service) in services.iter().enumerate() {
        if let Some(pod) = pods.iter().find(|pod| overlap(pod, service)) {
            found.push(
                Invalid::without_help(format!("the range overlaps the pod range {pod}"))
                    .at(format!("network.services[{i}]")),
            );
        }
    }
    for (name, nets) in [("pod", pods), ("service", services)] {
        for (i, net) in node.addresses.iter().enumerate() {
            if let Some(range) = nets.iter().find(|range| range.contains(&net.addr())) {
                found.push(
                    Invalid::without_help(format!("the address lies in the {name} range {range}"))
                        .at(format!("addresses[{i}]")),
                );
            }
        }
    }
}

fn hosts(node: &NodeConfig, found: &mut Vec<Problem>) {
    for (i, entry) in node.hosts.iter().enumerate() {
        if entry.names.is_empty() {
            found.push(
                Invalid::without_help("the entry has no name").at(format!("hosts[{i}].names")),
            );
        }
        for (j, name) in entry.names.iter().enumerate() {
            let at = format!("hosts[{i}].names[{j}]");
            found.extend(dns_name(name).err().map(|invalid| invalid.at(&at)));
            if *name == node.apiserver.domain {
                found.push(
                    Invalid::new(
                        "the apiserver's domain must not be in the list",
                        "each host resolves it according to its role",
                    )
                    .at(at),
                );
            }
        }
    }
}
