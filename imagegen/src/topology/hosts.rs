//! Rules for hosts: each alone, among each other, and with the cluster's network.

use std::net::IpAddr;

use ipnet::IpNet;
use userdata::node_config::Role;

use super::findings::{Findings, Unique};
use super::network::{self, Network, is_v4};
use super::value;
use super::{HostTopology, Topology};
use crate::plan::HostPlan;

pub(super) fn check(topology: &Topology, network: &Network, f: &mut Findings<'_>) -> Vec<HostPlan> {
    if topology.hosts.is_empty() {
        f.error(
            "hosts",
            "there is no host",
            "write at least one host with `role: master`",
        );
        return Vec::new();
    }
    let mut names = Unique::new("name");
    let mut addresses: Unique<IpAddr> = Unique::new("address");
    let mut macs = Unique::new("MAC address");
    let mut plans: Vec<HostPlan> = Vec::with_capacity(topology.hosts.len());
    for (i, host) in topology.hosts.iter().enumerate() {
        let path = format!("hosts[{i}]");
        let plan = one(host, &path, network, f);
        let name = host.name.as_deref().unwrap_or("a host without name");
        if host.name.is_some() {
            names.add(
                f,
                &format!("{path}.name"),
                name,
                name.to_owned(),
                "write another name",
            );
        }
        for ((place, _), net) in host
            .address
            .with_paths(&format!("{path}.address"))
            .zip(&plan.addresses)
        {
            addresses.add(f, &place, name, net.addr(), "write this host's own address");
        }
        if !plan.mac.is_empty() {
            macs.add(
                f,
                &format!("{path}.mac"),
                name,
                plan.mac.clone(),
                "write this host's own MAC address",
            );
        }
        plans.push(plan);
    }
    taken(network, &addresses, f);
    masters(&mut plans, topology, f);
    reach(topology, network, &plans, f);
    plans
}

/// Checks one host. Invalid values are reported and stay empty.
fn one(host: &HostTopology, path: &str, network: &Network, f: &mut Findings<'_>) -> HostPlan {
    let at = |key: &str| format!("{path}.{key}");
    let name = f
        .required(&at("name"), host.name.as_deref(), "write `name: m0`")
        .unwrap_or_default();
    if name == "localhost" || name == network.apiserver.domain {
        f.error(
            &at("name"),
            format!("`{name}` has another meaning on every host"),
            "write another name",
        );
    } else if name == "kubernetes" {
        f.error(
            &at("name"),
            "`kubernetes` is a name of the apiserver, for which no host gets a certificate",
            "write another name",
        );
    } else if host.name.is_some() {
        f.take(&at("name"), value::host_name(name));
    }
    let role = match host.role.as_deref() {
        Some("master") => Role::Master,
        Some("node") => Role::Node,
        None => {
            f.missing(&at("role"), "write `role: master` or `role: node`");
            Role::Node
        }
        Some(other) => {
            let help = match yaml::nearest(other, ["master", "node"]) {
                _ if other == "master0" => "write `master`: the first master is master0".to_owned(),
                _ if ["control-plane", "controlplane", "server"].contains(&other) => {
                    "write `master`".to_owned()
                }
                _ if ["worker", "agent"].contains(&other) => "write `node`".to_owned(),
                Some(meant) => format!("write `{meant}`"),
                None => "write `master` or `node`".to_owned(),
            };
            f.error(&at("role"), format!("unknown role `{other}`"), help);
            Role::Node
        }
    };
    if host.address.texts.is_empty() {
        f.missing(
            &at("address"),
            "write the host's address with its prefix: `address: 192.168.7.10/24`",
        );
    }
    let mut addresses: Vec<IpNet> = Vec::new();
    for (place, text) in host.address.with_paths(&at("address")) {
        let Some(address) = f.take(&place, value::host_address(text)) else {
            continue;
        };
        for (what, range) in [
            ("pod", &network.plan.pods),
            ("service", &network.plan.services),
        ] {
            for range in range
                .iter()
                .filter(|range| value::overlap(range, &address.trunc()))
            {
                let message = format!(
                    "the host's network `{}` and the {what} range `{range}` overlap",
                    address.trunc()
                );
                f.error(&place, message, format!("write another {what} range"));
            }
        }
        addresses.push(address);
    }
    let help = "write the MAC address of the network card, by which a machine finds its document";
    let mac = f.required(&at("mac"), host.mac.as_deref(), help);
    let mac = mac
        .and_then(|text| f.take(&at("mac"), value::mac(text)))
        .unwrap_or_default();
    let serial = host.serial.as_deref();
    let serial = serial.and_then(|text| f.take(&at("serial"), value::serial(text)));
    let uuid = host.uuid.as_deref();
    let uuid = uuid.and_then(|text| f.take(&at("uuid"), value::uuid(text)));
    for (key, text) in &host.labels {
        let path = format!("{path}.labels[\"{key}\"]");
        if let Err(invalid) = value::node_label_key(key) {
            f.error_at_key(&path, invalid.message, invalid.help.unwrap_or_default());
        }
        f.take(&path, value::label_value(text));
    }
    let taints = host.taints.as_ref().map(|taints| {
        f.all(&at("taints"), taints, |text| {
            value::taint(text).map(|()| text.to_owned())
        })
    });
    HostPlan {
        name: name.to_owned(),
        role,
        addresses,
        mac,
        serial,
        uuid,
        labels: host.labels.clone(),
        taints,
    }
}

fn taken(network: &Network, addresses: &Unique<IpAddr>, f: &mut Findings<'_>) {
    let vip = network.apiserver.vip;
    if let Some(host) = addresses.owner(&vip) {
        f.error(
            "apiserver.vip",
            format!("the VIP `{vip}` is the address of the host `{host}`"),
            network::free_address(&vip),
        );
    }
    for gateway in &network.plan.gateways {
        if let Some(host) = addresses.owner(gateway) {
            f.error(
                "network.gateway",
                format!("the gateway `{gateway}` is the address of the host `{host}`"),
                "write the router's own address, or remove the key if there is none",
            );
        }
    }
}

/// Assigns the role of master0 and checks the number of masters.
fn masters(plans: &mut [HostPlan], topology: &Topology, f: &mut Findings<'_>) {
    let count = plans
        .iter()
        .filter(|host| host.role == Role::Master)
        .count();
    match plans.iter_mut().find(|host| host.role == Role::Master) {
        Some(first) => first.role = Role::Master0,
        // An invalid role may be meant as a master; its own finding is enough.
        None if topology
            .hosts
            .iter()
            .all(|host| host.role.as_deref() == Some("node")) =>
        {
            f.error_at_key(
                "hosts",
                "there is no master",
                "write `role: master` at one host, or at three",
            );
        }
        None => {}
    }
    if count > 0 && count % 2 == 0 {
        let lost = (count - 1) / 2;
        f.warning_at_key(
            "hosts",
            format!(
                "{count} masters tolerate the loss of {lost}, as {} do",
                count - 1
            ),
            format!("use {} or {} masters", count - 1, count + 1),
        );
    }
}

/// Every host must reach the gateway, or master0 if there is none, on its own link.
fn reach(topology: &Topology, network: &Network, plans: &[HostPlan], f: &mut Findings<'_>) {
    let dual = network.plan.services.len() > 1;
    let first = plans
        .iter()
        .find(|host| host.role == Role::Master0)
        .and_then(|host| host.addresses.first());
    for (i, (host, given)) in plans.iter().zip(&topology.hosts).enumerate() {
        let path = format!("hosts[{i}].address");
        if host.addresses.is_empty() || host.addresses.len() < given.address.texts.len() {
            continue;
        }
        let holds = |ip: &IpAddr| host.addresses.iter().any(|net| net.contains(ip));
        let on_link =
            |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) || holds(ip);
        for gateway in network
            .plan
            .gateways
            .iter()
            .filter(|gateway| !on_link(gateway))
        {
            let message = format!(
                "the gateway `{gateway}` is in no network of `{}`",
                host.name
            );
            f.error(
                &path,
                message,
                "write an address of the gateway's network, or another gateway",
            );
        }
        for range in &network.plan.services {
            if !host.addresses.iter().any(|net| is_v4(net) == is_v4(range)) {
                let family = network::family(is_v4(range));
                let message = format!(
                    "`{}` has no {family} address, but the service range `{range}` needs one",
                    host.name
                );
                f.error(
                    &path,
                    message,
                    if dual {
                        "write a list of two addresses"
                    } else {
                        "write an address of that family"
                    },
                );
            }
        }
        own_family(host, network, &path, f);
        if let (true, Some(first)) = (network.plan.gateways.is_empty(), first)
            && !holds(&first.addr())
        {
            let message = format!(
                "`{}` cannot reach master0 at `{}`: different networks and no gateway",
                host.name,
                first.addr()
            );
            f.error(
                &path,
                message,
                "write addresses of one network, or a `network.gateway`",
            );
        }
    }
}

/// The node's address must be of the cluster's first family: kube-apiserver refuses to advertise
/// another one, and IPVS does not translate between families.
fn own_family(host: &HostPlan, network: &Network, path: &str, f: &mut Findings<'_>) {
    let (Some(first), Some(range)) = (host.addresses.first(), network.plan.services.first()) else {
        return;
    };
    let other = host.addresses.iter().find(|net| is_v4(net) == is_v4(range));
    if let Some(other) = other.filter(|_| is_v4(first) != is_v4(range)) {
        let message = format!(
            "the first address of `{}` is not of the cluster's first address family, {}",
            host.name,
            network::family(is_v4(range))
        );
        let help = format!("write `{other}` first, or the ranges in the other order");
        f.error(path, message, help);
    }
}
