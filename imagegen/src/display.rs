//! Formats the plan as text and as JSON.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use userdata::role::{MACHINE_STEPS, StepInfo};

use crate::pki::{AUTHORITIES, Holders, LEAVES, Place};
use crate::plan::{ClusterPlan, HostPlan};

/// The steps of a host's first boot: those of any host that its document needs, then those of its
/// role.
fn steps(plan: &ClusterPlan, host: &HostPlan) -> Vec<StepInfo> {
    let machine = MACHINE_STEPS.iter().filter(|step| match step.name {
        "users" | "ssh" => !plan.ssh_authorized_keys.is_empty(),
        "ntp" => !plan.ntp.is_empty(),
        // imagegen's documents have no commands.
        "bootcmd" | "runcmd" => false,
        _ => true,
    });
    machine.chain(host.role.steps()).copied().collect()
}

/// As text.
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
            package.map_or("default".to_owned(), |path| path.display().to_string()),
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
        let _ = writeln!(out, "\nhost {} ({})", host.name, host.role.as_str());
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
        if let Some(taints) = &host.taints {
            let _ = writeln!(out, "  {:<13} {}", "taints", list(taints));
        }
        let _ = writeln!(out, "  {:<13} {}", "gets", list(&secrets(host)));
        for (number, step) in (1..).zip(steps(plan, host)) {
            let _ = writeln!(out, "  {number:>2}. {:16} {}", step.name, step.summary);
        }
    }
    out
}

/// As JSON.
pub fn json(plan: &ClusterPlan, package: Option<&Path>, output: &Path) -> Value {
    let hosts: Vec<Value> = plan
        .hosts
        .iter()
        .map(|host| {
            let steps = steps(plan, host);
            json!({
                "name": host.name,
                "fqdn": plan.fqdn(host),
                "role": host.role.as_str(),
                "addresses": host.addresses,
                "mac": host.mac,
                "labels": host.labels,
                "taints": host.taints,
                "secrets": secrets(host),
                "steps": steps.iter().map(|step| step.name).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "cluster": plan.name,
        "package": package,
        "output": output,
        "apiserver": plan.apiserver,
        "network": plan.network,
        "validity_days": plan.validity_days,
        "image": plan.image,
        "kubernetes": plan.kubernetes,
        "hosts": hosts,
    })
}

/// The private keys in a host's document.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::check;

    #[test]
    fn plan_lists_the_steps_that_userdata_names() {
        let topology = include_str!("../tests/topologies/prod.yaml");
        let plan = check::read("prod.yaml", topology).unwrap().plan;
        let json = json(&plan, None, Path::new("prod"));
        for (host, shown) in plan.hosts.iter().zip(json["hosts"].as_array().unwrap()) {
            let shown = shown["steps"].as_array().unwrap().iter();
            let shown: Vec<_> = shown.filter_map(Value::as_str).collect();
            let of_role: Vec<_> = host.role.steps().iter().map(|step| step.name).collect();
            assert!(shown.ends_with(&of_role), "{}: {shown:?}", host.name);
            let machine = &shown[..shown.len() - of_role.len()];
            assert_eq!(
                machine,
                ["hostname", "network", "addresses", "files", "hosts"]
            );
        }
    }
}
