//! Rules for the names in certificates: no host gets a certificate that names the apiserver or
//! another host.
//!
//! Each host has a certificate for its own names. Whoever steals a worker must not be able to pose
//! as the apiserver with it.

use super::Topology;
use super::findings::Findings;
use super::network::Network;
use super::value::{self, Invalid};
use crate::plan::{AlternativeNames, HostPlan};
use userdata::node_config::Role;

/// Checks `apiserver.domain` and `apiserver.names` against the hosts and returns the names.
pub(super) fn check(
    topology: &Topology,
    network: &Network,
    cluster: &str,
    hosts: &[HostPlan],
    f: &mut Findings<'_>,
) -> AlternativeNames {
    let domain = &network.apiserver.domain;
    if let Some(host) = hosts.iter().find(|host| host.fqdn(cluster) == *domain) {
        f.error(
            "apiserver.domain",
            format!(
                "`{domain}` is the name of the host `{}`, which has a certificate for it",
                host.name
            ),
            "write a name that no host has, `apiserver.cluster.local`",
        );
    }
    let given = f.all("apiserver.names", &topology.apiserver.names, |text| {
        let name = value::certificate_name(text)?;
        free(&name, cluster, hosts)?;
        Ok(name)
    });
    let mut names = AlternativeNames::default();
    for name in &given {
        names.add(name);
    }
    names
}

/// Fails if `name` is that of a worker of `cluster`. The names of masters are in the apiserver's
/// certificates anyway.
pub fn free(name: &str, cluster: &str, hosts: &[HostPlan]) -> Result<(), Invalid> {
    let wildcard = name.strip_prefix("*.");
    let names = |host: &&HostPlan| {
        let fqdn = host.fqdn(cluster);
        let covered = wildcard.is_some() && fqdn.split_once('.').map(|(_, rest)| rest) == wildcard;
        covered || host.name == name || fqdn == name || host.ips().any(|ip| ip.to_string() == name)
    };
    let workers = || hosts.iter().filter(|host| host.role == Role::Node);
    match workers().find(names) {
        None => Ok(()),
        Some(host) => Err(Invalid::new(
            format!(
                "`{name}` is a name of the worker `{}`, not of the apiserver",
                host.name
            ),
            "write the name or address of a load balancer, or remove it",
        )),
    }
}
