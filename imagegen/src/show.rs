//! The plan as a person reads it, and as a program does. Makes nothing.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use userdata::node_config::Role;

use crate::pki::{AUTHORITIES, Holders, LEAVES, Place};
use crate::plan::{ClusterPlan, HostPlan};

/// What a host does on its first boot, by role; told here for the reader, decided by firstboot.
fn steps(role: Role) -> &'static [&'static str] {
    match role {
        Role::Master0 => &[
            "host name, network, files of the document, kernel settings",
            "start the container runtime",
            "refuse if a listed master already answers with this authority",
            "kubeadm init with the certificates it was given",
            "wait until its own apiserver answers",
            "apply the package's manifests",
            "ready",
        ],
        Role::Master => &[
            "host name, network, files of the document, kernel settings",
            "start the container runtime",
            "wait for the masters before it in the list, one join at a time",
            "kubeadm join --control-plane with its own certificate",
            "wait until its own apiserver answers; the domain becomes itself",
            "ready",
        ],
        Role::Node => &[
            "host name, network, files of the document, kernel settings",
            "start the container runtime",
            "route and IPVS rules from the VIP to every master",
            "kubeadm join with its own certificate",
            "lvscare as a static pod, which keeps the rules",
            "ready",
        ],
    }
}

/// In words.
pub fn text(plan: &ClusterPlan, package: Option<&Path>, output: &Path) -> String {
    let mut out = String::new();
    let masters = plan.masters().count();
    let nodes = plan.hosts.len() - masters;
    let list = |items: &[String]| {
        if items.is_empty() {
            "none".to_owned()
        } else {
            items.join(", ")
        }
    };
    let strings =
        |items: &[ipnet::IpNet]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
    let facts = [
        (
            "package",
            package.map_or("the embedded one".to_owned(), |path| {
                path.display().to_string()
            }),
        ),
        ("output", output.display().to_string()),
        (
            "apiserver",
            format!("{}, {} on nodes", plan.endpoint(), plan.apiserver.vip),
        ),
        ("pods", list(&strings(&plan.network.pods))),
        ("services", list(&strings(&plan.network.services))),
        (
            "gateway",
            list(
                &plan
                    .network
                    .gateways
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>(),
            ),
        ),
        (
            "nameservers",
            list(
                &plan
                    .network
                    .nameservers
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>(),
            ),
        ),
        (
            "certificates",
            format!(
                "valid for {} days from the day of issue",
                plan.validity_days
            ),
        ),
        ("kernel", format!("{:?}", plan.image.kernel).to_lowercase()),
    ];
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "cluster {}: {masters} masters, {nodes} nodes",
        plan.name
    );
    for (name, value) in facts {
        let _ = writeln!(out, "  {name:<13} {value}");
    }
    for host in &plan.hosts {
        let _ = writeln!(out, "\nhost {} ({})", host.name, role(host.role));
        let _ = writeln!(
            out,
            "  {:<13} {}",
            "address",
            list(&strings(&host.addresses))
        );
        let _ = writeln!(out, "  {:<13} {}", "mac", host.mac);
        if !host.labels.is_empty() {
            let labels: Vec<_> = host
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            let _ = writeln!(out, "  {:<13} {}", "labels", list(&labels));
        }
        if !host.taints.is_empty() {
            let _ = writeln!(out, "  {:<13} {}", "taints", list(&host.taints));
        }
        let _ = writeln!(out, "  {:<13} {}", "gets", list(&secrets(host)));
        for (i, step) in steps(host.role).iter().enumerate() {
            let _ = writeln!(out, "  {:>2}. {step}", i + 1);
        }
    }
    out
}

/// As JSON.
pub fn json(plan: &ClusterPlan, package: Option<&Path>, output: &Path) -> Value {
    let hosts: Vec<Value> = plan
        .hosts
        .iter()
        .map(|host| json!({ "name": host.name, "fqdn": plan.fqdn(host), "role": role(host.role), "addresses": host.addresses,
            "mac": host.mac, "labels": host.labels, "taints": host.taints, "secrets": secrets(host),
            "steps": steps(host.role) }))
        .collect();
    json!({ "cluster": plan.name, "package": package, "output": output, "apiserver": plan.apiserver,
        "network": plan.network, "validity_days": plan.validity_days, "image": plan.image,
        "kubernetes": plan.kubernetes, "hosts": hosts })
}

/// The private keys a host's document holds.
fn secrets(host: &HostPlan) -> Vec<String> {
    let mut secrets: Vec<String> = LEAVES
        .iter()
        .filter(|row| row.holders.include(host.role))
        .map(|row| match row.place {
            Place::Files(file) => format!("{file}.key"),
            Place::Status => "status.key".to_owned(),
            Place::Endpoint(file) | Place::Local(file) => file.to_owned(),
        })
        .collect();
    if Holders::Masters.include(host.role) {
        secrets.extend(AUTHORITIES.iter().map(|row| format!("{}.key", row.file)));
        secrets.push("sa.key".to_owned());
    }
    secrets
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Master0 => "master0",
        Role::Master => "master",
        Role::Node => "node",
    }
}
