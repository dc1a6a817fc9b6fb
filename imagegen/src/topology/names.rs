//! Rules for the names in certificates: no host gets a certificate that names the apiserver or
//! another host.
//!
//! Each host has a certificate for its own names. A stolen worker must not be able to pose
//! as the apiserver with it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use userdata::node_config::Role;

use super::Topology;
use super::findings::Findings;
use super::network::Network;
use super::value::{self, Invalid};
use crate::plan::{AlternativeNames, HostPlan};

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
    let workers = WorkerNames::new(cluster, hosts);
    let given = f.all("apiserver.names", &topology.apiserver.names, |text| {
        let name = value::certificate_name(text)?;
        workers.check(&name)?;
        Ok(name)
    });
    // `all` has removed duplicates.
    let (ips, dns): (Vec<_>, Vec<_>) = given
        .into_iter()
        .partition(|name| name.parse::<IpAddr>().is_ok());
    AlternativeNames {
        dns,
        ips: ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
    }
}

/// The names and addresses of workers. Those of masters are in the apiserver's certificates anyway.
#[derive(Debug)]
pub struct WorkerNames<'a> {
    owners: BTreeMap<String, &'a str>,
    /// The domain of all hosts, and the first worker in it.
    domain: String,
    first: Option<&'a str>,
}

impl<'a> WorkerNames<'a> {
    pub fn new(cluster: &str, hosts: &'a [HostPlan]) -> Self {
        let mut owners = BTreeMap::new();
        let workers = || hosts.iter().filter(|host| host.role == Role::Node);
        for host in workers() {
            owners.insert(host.name.clone(), host.name.as_str());
            owners.insert(host.fqdn(cluster), &host.name);
            owners.extend(host.ips().map(|ip| (ip.to_string(), host.name.as_str())));
        }
        let first = workers().next();
        let domain = first.map(|host| host.fqdn(cluster));
        let domain = domain.and_then(|name| Some(name.split_once('.')?.1.to_owned()));
        Self {
            owners,
            domain: domain.unwrap_or_default(),
            first: first.map(|host| host.name.as_str()),
        }
    }

    /// Fails if `name` is that of a worker, or a wildcard for it.
    pub fn check(&self, name: &str) -> Result<(), Invalid> {
        let owner = match name.strip_prefix("*.") {
            Some(domain) if domain == self.domain => self.first,
            _ => self.owners.get(name).copied(),
        };
        match owner {
            None => Ok(()),
            Some(host) => Err(Invalid::new(
                format!("`{name}` is a name of the worker `{host}`, not of the apiserver"),
                "write the name or address of a load balancer, or remove it",
            )),
        }
    }
}
