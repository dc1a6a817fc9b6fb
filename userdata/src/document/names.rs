//! The host name and FQDN that a document gives to its host, by cloud-init's rules.

use super::MetaData;
use crate::cloud_config::CloudConfig;

/// The names of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The first label.
    pub hostname: Option<String>,
    pub fqdn: Option<String>,
}

pub(super) fn names(config: &CloudConfig, meta: &MetaData) -> Names {
    let first_label = |name: &str| name.split('.').next().unwrap_or(name).to_owned();
    let given = config
        .fqdn
        .clone()
        .or_else(|| config.hostname.clone().filter(|name| name.contains('.')));
    if let Some(fqdn) = given {
        let hostname = match (&config.fqdn, &config.hostname) {
            (Some(_), Some(hostname)) => first_label(hostname),
            _ => first_label(&fqdn),
        };
        return Names {
            hostname: Some(hostname),
            fqdn: Some(fqdn),
        };
    }
    let local = meta
        .local_hostname
        .clone()
        .map(|name| match name.parse::<std::net::Ipv4Addr>() {
            Ok(_) => format!("ip-{}", name.replace('.', "-")),
            Err(_) => name,
        });
    let domain = local
        .as_deref()
        .and_then(|name| name.split_once('.'))
        .map(|(_, domain)| domain);
    let hostname = config
        .hostname
        .clone()
        .or_else(|| local.as_deref().map(first_label));
    let domain = domain.filter(|domain| *domain != "localdomain");
    let fqdn = hostname
        .as_ref()
        .zip(domain)
        .map(|(hostname, domain)| format!("{hostname}.{domain}"));
    Names { hostname, fqdn }
}
