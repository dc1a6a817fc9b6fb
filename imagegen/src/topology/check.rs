//! Checks a whole topology and turns it into a plan: defaults, and rules over more than one value.
//!
//! One run reports all findings, each with its position. Rules for single values are in [`value`],
//! rules for ranges in `network`, rules for hosts in `hosts`.

use std::collections::BTreeMap;

use userdata::contract::API_VERSION;
use userdata::node_config::{Kubernetes, SeedPolicy};
use yaml::{self, Diagnostic, Diagnostics, Parsed};

use super::findings::Findings;
use super::value::{self, Invalid};
use super::{KubernetesTopology, Topology, hosts, image, names, network};
use crate::plan::ClusterPlan;

pub const KIND: &str = "Cluster";

/// A valid plan, and warnings about its topology.
#[derive(Debug)]
pub struct Checked {
    pub plan: ClusterPlan,
    pub warnings: Vec<Diagnostic>,
    /// Line and column of the package's path, if the topology has one.
    pub package_place: Option<(usize, usize)>,
    /// Line and column of the values that a package may contradict, by key.
    pub places: Vec<(&'static str, (usize, usize))>,
}

/// What a package says too.
const SHARED: [&str; 6] = [
    "apiserver",
    "network.pods",
    "network.services",
    "kubernetes.apiserver_args",
    "kubernetes.controller_manager_args",
    "kubernetes.scheduler_args",
];

/// Reads a topology; findings call it `name`.
pub fn read(name: &str, text: &str) -> Result<Checked, Diagnostics> {
    read_with(name, text, &|_| Ok(()), &BTreeMap::new())
}

/// The package that a topology names, however wrong the rest of it is.
pub fn package_of(text: &str) -> Option<String> {
    let (parsed, _) = yaml::parse_leniently::<Topology>("", text, false);
    parsed?.value.package
}

/// [`read`] with an additional rule for the value of `package`, for callers that look at the disk,
/// and with the package's flags of kube-controller-manager.
pub fn read_with(
    name: &str,
    text: &str,
    package: &dyn Fn(&str) -> Result<(), Invalid>,
    package_args: &BTreeMap<String, String>,
) -> Result<Checked, Diagnostics> {
    let (parsed, mut found) = yaml::parse_leniently::<Topology>(name, text, false);
    let Some(mut parsed) = parsed else {
        return Err(found);
    };
    parsed.value.kubernetes.package_args = package_args.clone();
    let checked = check(&parsed, package);
    if found.0.is_empty() {
        return checked;
    }
    // The readable part is checked too, so that one run reports everything.
    let more = checked.map_or_else(|found| found.0, |checked| checked.warnings);
    for finding in more {
        found.push_unless_known(finding);
    }
    found.sort();
    Err(found)
}

fn check(
    parsed: &Parsed<Topology>,
    package_rule: &dyn Fn(&str) -> Result<(), Invalid>,
) -> Result<Checked, Diagnostics> {
    let topology = &parsed.value;
    let mut findings = Findings::new(&parsed.spans);
    let f = &mut findings;
    constant(
        f,
        "apiVersion",
        topology.api_version.as_deref(),
        API_VERSION,
    );
    constant(f, "kind", topology.kind.as_deref(), KIND);
    let name = f.required(
        "name",
        topology.name.as_deref(),
        "write a short name for the cluster: `name: prod`",
    );
    let name =
        name.and_then(|text| f.take("name", value::host_name(text).map(|()| text.to_owned())));
    let package = topology.package.clone().filter(|text| {
        if text.is_empty() {
            f.error(
                "package",
                "empty",
                "write a path, or remove the key for the default package",
            );
        }
        !text.is_empty() && f.take("package", package_rule(text)).is_some()
    });
    let validity = topology.certificates.validity.as_deref().unwrap_or("100y");
    let validity_days = f.take("certificates.validity", value::validity_days(validity));
    let admin_days = admin_days(topology.certificates.admin.as_deref(), validity_days, f);
    let seed = seed(topology.seed.as_deref(), f);
    let encrypts_documents = encrypts_documents(topology.document.encrypt.as_deref(), f);
    let ssh_authorized_keys = f.all(
        "ssh_authorized_keys",
        &topology.ssh_authorized_keys,
        value::ssh_key,
    );
    let ntp = f.all("ntp", &topology.ntp, |text| match value::ip(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => value::dns_name(text)
            .map(|()| text.to_owned())
            .map_err(|_| {
                Invalid::new(
                    "neither an IP address nor a domain name",
                    "write `192.168.7.1` or `ntp.example.com`",
                )
            }),
    });
    let network = network::check(topology, f);
    let hosts = hosts::check(topology, &network, f);
    let cluster = name.as_deref().unwrap_or_default();
    let apiserver_names = names::check(topology, &network, cluster, &hosts, f);
    let kubernetes = kubernetes(&topology.kubernetes, f);
    let image = image::check(&topology.image, f);
    let warnings = findings.into_warnings()?;
    let plan = ClusterPlan {
        name: name.unwrap_or_default(),
        package,
        apiserver: network.apiserver,
        apiserver_names,
        network: network.plan,
        validity_days: validity_days.unwrap_or_default(),
        admin_days,
        seed,
        encrypts_documents,
        ssh_authorized_keys,
        ntp,
        kubernetes,
        image,
        hosts,
    };
    let place = |key: &str| {
        let region = parsed.spans.get(key).map(|span| span.value);
        region.map(|region| (region.line, region.column))
    };
    let places = SHARED.iter().filter_map(|key| Some((*key, place(key)?)));
    Ok(Checked {
        plan,
        warnings,
        package_place: place("package"),
        places: places.collect(),
    })
}

/// Certificates of administrators live no longer than all others.
fn admin_days(given: Option<&str>, validity: Option<u32>, f: &mut Findings<'_>) -> u32 {
    let all = validity.unwrap_or_default();
    let Some(text) = given else {
        return all;
    };
    let days = f.take("certificates.admin", value::validity_days(text));
    if validity.is_some() && days.is_some_and(|days| days > all) {
        f.error(
            "certificates.admin",
            "longer than `certificates.validity`",
            "write at most that, or remove the key",
        );
    }
    days.unwrap_or(all)
}

fn seed(given: Option<&str>, f: &mut Findings<'_>) -> SeedPolicy {
    match given {
        None | Some("scrub") => SeedPolicy::Scrub,
        Some("keep") => SeedPolicy::Keep,
        Some(other) => {
            f.error(
                "seed",
                format!("`{other}` is not known"),
                "write `scrub`, which removes the secrets once the host is ready, or `keep`",
            );
            SeedPolicy::Scrub
        }
    }
}

fn encrypts_documents(given: Option<&str>, f: &mut Findings<'_>) -> bool {
    match given {
        None | Some("none") => false,
        Some("passphrase") => true,
        Some(other) => {
            let message = format!("unknown encryption of documents `{other}`");
            f.error("document.encrypt", message, "write `passphrase` or `none`");
            false
        }
    }
}

fn constant(f: &mut Findings<'_>, path: &str, found: Option<&str>, expected: &str) {
    match found {
        None => f.missing(path, format!("write `{path}: {expected}` at the top")),
        Some(text) if text == expected => {}
        Some(text) => f.error(
            path,
            format!("`{text}` is not known"),
            format!("write `{expected}`"),
        ),
    }
}

fn kubernetes(given: &KubernetesTopology, f: &mut Findings<'_>) -> Kubernetes {
    let sets = [
        ("apiserver_args", &given.apiserver_args),
        ("controller_manager_args", &given.controller_manager_args),
        ("scheduler_args", &given.scheduler_args),
        ("etcd_args", &given.etcd_args),
    ];
    for (set, args) in sets {
        for flag in args.keys().filter(|flag| !is_flag(flag)) {
            let mended = flag.trim_start_matches('-').replace('_', "-");
            let help = if is_flag(&mended) {
                format!("write `{mended}`")
            } else {
                "write the flag's name".to_owned()
            };
            f.error_at_key(
                &format!("kubernetes.{set}[\"{flag}\"]"),
                "not the name of a flag without leading dashes",
                help,
            );
        }
    }
    for (section, fields) in [
        ("kubelet", &given.kubelet),
        ("kube_proxy", &given.kube_proxy),
    ] {
        for reserved in ["apiVersion", "kind"] {
            if fields.contains_key(reserved) {
                let path = format!("kubernetes.{section}.{reserved}");
                f.error_at_key(&path, "set by the version of kubeadm", "remove this line");
            }
        }
    }
    if let Some(mode) = given.kube_proxy.get("mode")
        && !["iptables", "nftables", "ipvs"]
            .iter()
            .any(|known| mode == known)
    {
        f.error(
            "kubernetes.kube_proxy.mode",
            "not a mode of kube-proxy on Linux",
            "write `iptables`, `nftables` or `ipvs`",
        );
    }
    let timeout = given.control_plane_timeout.as_deref();
    let timeout =
        timeout.and_then(|text| f.take("kubernetes.control_plane_timeout", value::duration(text)));
    Kubernetes {
        apiserver_args: given.apiserver_args.clone(),
        controller_manager_args: given.controller_manager_args.clone(),
        scheduler_args: given.scheduler_args.clone(),
        etcd_args: given.etcd_args.clone(),
        kubelet: given.kubelet.clone(),
        kube_proxy: given.kube_proxy.clone(),
        control_plane_timeout_seconds: timeout
            .map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX)),
    }
}

fn is_flag(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && !text.starts_with('-') && text.bytes().all(inner)
}
