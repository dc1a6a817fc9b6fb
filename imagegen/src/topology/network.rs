//! Rules for the cluster's ranges, gateway and VIP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use userdata::contract::STATUS_PORT;
use userdata::node_config::Apiserver;

use super::findings::Findings;
use super::value;
use super::{OneOrMany, Topology};
use crate::plan::NetworkPlan;

const DOMAIN: &str = "apiserver.cluster.local";
const PORT: u16 = 6443;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 103, 97, 2);
/// Unique local (RFC 4193), with the digits of the other one.
const VIP_V6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0x103, 0x97, 0, 0, 0, 0, 2);
const PODS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16);
/// kubeadm's default, a `/12`, contains the VIP.
const SERVICES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16);

/// Ports that a master listens on (kubeadm `app/constants`, kubelet, kube-proxy, sshd, firstboot).
const TAKEN: [(u16, &str); 12] = [
    (22, "sshd"),
    (2379, "etcd"),
    (2380, "etcd"),
    (2381, "etcd"),
    (STATUS_PORT, "firstboot-status"),
    (10248, "kubelet"),
    (10249, "kube-proxy"),
    (10250, "kubelet"),
    (10255, "kubelet"),
    (10256, "kube-proxy"),
    (10257, "kube-controller-manager"),
    (10259, "kube-scheduler"),
];

/// The checked network, for the rules of hosts.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) apiserver: Apiserver,
    pub(super) plan: NetworkPlan,
}

pub(super) fn check(topology: &Topology, f: &mut Findings<'_>) -> Network {
    let given = &topology.network;
    let pods = ranges(&given.pods, "network.pods", PODS, f);
    let services = ranges(&given.services, "network.services", SERVICES, f);
    for (path, service) in &services {
        for (_, pod) in pods.iter().filter(|(_, pod)| value::overlap(pod, service)) {
            let message =
                format!("the service range `{service}` and the pod range `{pod}` overlap");
            f.error(path, message, "write disjoint ranges");
        }
        if service.max_prefix_len() - service.prefix_len() > 20 {
            // kube-apiserver has a bit for each address (`cmd/kube-apiserver/app/options`).
            let help = format!(
                "write `{}/{}` or a smaller one",
                service.network(),
                service.max_prefix_len() - 20
            );
            f.error(
                path,
                "kube-apiserver accepts at most 20 host bits in a service range",
                help,
            );
        } else if service.max_prefix_len() - service.prefix_len() < 4 {
            f.error(
                path,
                "a service range with fewer than 16 addresses",
                "write a larger range, `10.96.0.0/16`",
            );
        }
    }
    families(&pods, &services, f);
    super::pods::check(&pods, topology, f);
    let mut gateways: Vec<IpAddr> = Vec::new();
    for (path, text) in given.gateway.with_paths("network.gateway") {
        // A link-local IPv6 gateway is valid: each host reaches it on its only link.
        let checked = value::ip(text).and_then(|ip| match ip {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Ok(ip),
            _ => value::unicast(ip).map(|()| ip),
        });
        let Some(gateway) = f.take(&path, checked) else {
            continue;
        };
        if gateways
            .iter()
            .any(|other| other.is_ipv4() == gateway.is_ipv4())
        {
            f.error(
                &path,
                "a second gateway of the same address family",
                "write one for each family",
            );
        } else {
            gateways.push(gateway);
        }
    }
    let nameservers = f.all("network.nameservers", &given.nameservers, |text| {
        value::ip(text).map(|ip| ip.to_string())
    });
    let nameservers = nameservers
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let only = |ranges: Vec<(String, IpNet)>| {
        ranges
            .into_iter()
            .map(|(_, range)| range)
            .collect::<Vec<_>>()
    };
    let plan = NetworkPlan {
        pods: only(pods),
        services: only(services),
        gateways,
        nameservers,
    };
    Network {
        apiserver: apiserver(topology, &plan, f),
        plan,
    }
}

fn apiserver(topology: &Topology, network: &NetworkPlan, f: &mut Findings<'_>) -> Apiserver {
    let given = &topology.apiserver;
    let domain = given.domain.as_deref().unwrap_or(DOMAIN);
    if domain.parse::<IpAddr>().is_ok() {
        let help =
            format!("write a name, `{DOMAIN}`, which masters and workers resolve differently");
        f.error("apiserver.domain", "an address, not a name", help);
    } else if domain == "localhost" {
        f.error(
            "apiserver.domain",
            "`localhost` is every host itself",
            format!("write `{DOMAIN}`"),
        );
    } else {
        f.take("apiserver.domain", value::dns_name(domain));
    }
    let port = given.port.unwrap_or(PORT);
    if port == 0 {
        f.error(
            "apiserver.port",
            "0 is not a port",
            format!("write `{PORT}`"),
        );
    } else if let Some((_, who)) = TAKEN.iter().find(|(taken, _)| *taken == port) {
        f.error(
            "apiserver.port",
            format!("{port} is the port of {who} on the same host"),
            format!("write `{PORT}`"),
        );
    }
    let path = "apiserver.vip";
    let default = default_vip(network);
    let vip = match given.vip.as_deref() {
        None => default,
        Some(text) => f
            .take(
                path,
                value::ip(text).and_then(|ip| value::vip(ip).map(|()| ip)),
            )
            .unwrap_or(default),
    };
    let free = free_address(&vip);
    if vip.is_ipv4() != default.is_ipv4() {
        f.error(
            path,
            format!(
                "the VIP `{vip}` is not of the cluster's first address family, {}",
                family(default.is_ipv4())
            ),
            format!("write an address of that family, or remove the key for `{default}`"),
        );
    }
    if network.pods.iter().any(|range| range.contains(&vip)) {
        f.error(
            path,
            format!("the VIP `{vip}` is in the pod range: a pod may get it"),
            free,
        );
    } else if let Some(range) = network.services.iter().find(|range| range.contains(&vip)) {
        if vip == IpAddr::V4(VIP) && range.prefix_len() <= 16 {
            // sealos has used this pair for years: a conflict is very unlikely.
            f.warning(
                if given.vip.is_some() {
                    path
                } else {
                    "network.services"
                },
                format!("the VIP `{vip}` is in the service range `{range}`: a Service may get it"),
                format!("write `services: {SERVICES}`, or a VIP outside of it"),
            );
        } else {
            f.error(
                path,
                format!("the VIP `{vip}` is in the service range: a Service may get it"),
                free,
            );
        }
    } else if network.gateways.contains(&vip) {
        f.error(
            path,
            format!("the VIP `{vip}` is the gateway's address"),
            free,
        );
    }
    Apiserver {
        domain: domain.to_owned(),
        port,
        vip,
    }
}

/// Of the cluster's first address family, in which the apiservers advertise themselves.
fn default_vip(network: &NetworkPlan) -> IpAddr {
    match network.services.first() {
        Some(IpNet::V6(_)) => IpAddr::V6(VIP_V6),
        _ => IpAddr::V4(VIP),
    }
}

/// The cure for a VIP that is taken.
pub(super) fn free_address(vip: &IpAddr) -> String {
    let example = match vip {
        IpAddr::V4(_) => IpAddr::V4(VIP),
        IpAddr::V6(_) => IpAddr::V6(VIP_V6),
    };
    format!("write an address that no host, pod or service has, `{example}`")
}

pub(super) fn family(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}

fn ranges(
    given: &OneOrMany,
    path: &str,
    default: Ipv4Net,
    f: &mut Findings<'_>,
) -> Vec<(String, IpNet)> {
    let mut ranges: Vec<(String, IpNet)> = Vec::new();
    for (place, text) in given.with_paths(path) {
        let Some(range) = f.take(&place, value::range(text)) else {
            continue;
        };
        if ranges
            .iter()
            .any(|(_, other)| is_v4(other) == is_v4(&range))
        {
            f.error(
                &place,
                "a second range of the same address family",
                "write one for each family",
            );
        } else {
            ranges.push((place, range));
        }
    }
    if given.texts.is_empty() {
        ranges.push((path.to_owned(), default.into()));
    }
    ranges
}

/// kubeadm requires the same families for pods and services, in the same order.
fn families(pods: &[(String, IpNet)], services: &[(String, IpNet)], f: &mut Findings<'_>) {
    let of = |ranges: &[(String, IpNet)]| {
        ranges
            .iter()
            .map(|(_, range)| is_v4(range))
            .collect::<Vec<_>>()
    };
    if pods.is_empty() || services.is_empty() || of(pods) == of(services) {
        return;
    }
    f.error(
        "network.services",
        "pods and services do not have the same address families in the same order",
        "write one range for each family of `network.pods`, in its order",
    );
}

pub(super) fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}
