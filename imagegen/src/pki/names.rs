//! The names in certificates, and the guard that no worker gets one of the apiserver's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use userdata::node_config::Role;

use super::{DNS_DOMAIN, LEAVES, Names};
use crate::plan::{ClusterPlan, HostPlan};

/// Fails if a worker would get a certificate for a name or an address of the apiserver. The rules
/// for topologies exclude this; with such a certificate one stolen worker can impersonate the
/// apiserver, so that it is checked again where certificates are issued.
pub(super) fn check(plan: &ClusterPlan) -> Result<()> {
    let Some(first) = plan.masters().next() else {
        return Ok(());
    };
    let (dns, ips) = apiserver(plan, first);
    let (dns, ips) = (BTreeSet::from_iter(dns), BTreeSet::from_iter(ips));
    for host in plan.hosts.iter().filter(|host| host.role == Role::Node) {
        let own = LEAVES
            .iter()
            .filter(|row| row.names == Names::Host && row.holders.include(host.role))
            .map(|row| row.specify(plan, host));
        for specification in own {
            let name = specification
                .dns
                .into_iter()
                .find(|name| dns.contains(name));
            let ip = specification.ips.into_iter().find(|ip| ips.contains(ip));
            let shared = name.or(ip.map(|ip| ip.to_string()));
            ensure!(
                shared.is_none(),
                "`{}` would get a certificate for `{}`, which names the apiserver; give the host \
                 or the apiserver another name",
                host.name,
                shared.unwrap_or_default()
            );
        }
    }
    Ok(())
}

/// Every master's certificate has the names and addresses of all masters, so that each is reachable
/// by any of them. kubeadm checks only the names of its own host.
pub(super) fn apiserver(plan: &ClusterPlan, host: &HostPlan) -> (Vec<String>, Vec<IpAddr>) {
    let mut dns = vec![
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{DNS_DOMAIN}"),
        "localhost".to_owned(),
        plan.apiserver.domain.clone(),
        host.name.clone(),
    ];
    let mut ips: Vec<IpAddr> = plan
        .network
        .services
        .iter()
        .map(first_service_address)
        .collect();
    ips.extend(loopback());
    ips.push(plan.apiserver.vip);
    for master in plan.masters() {
        dns.push(master.name.clone());
        ips.extend(master.ips());
    }
    dns.extend(plan.apiserver_names.dns.iter().cloned());
    ips.extend(&plan.apiserver_names.ips);
    (distinct(dns), distinct(ips))
}

/// The address of the Service `kubernetes`: the first after the network address.
fn first_service_address(range: &ipnet::IpNet) -> IpAddr {
    match range.network() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network).saturating_add(1)).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network).saturating_add(1)).into()),
    }
}

pub(super) fn loopback() -> [IpAddr; 2] {
    [
        IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    ]
}

fn distinct<T: Ord + Clone>(mut items: Vec<T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    items.retain(|item| seen.insert(item.clone()));
    items
}
