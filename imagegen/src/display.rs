//! Formats the plan as text and as JSON, and tells what to do next.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use userdata::role::{MACHINE_STEPS, StepInfo};

use crate::image::ImageReport;
use crate::image::vfat::SECTOR;
use crate::passphrases::Passphrases;
use crate::pipeline::PKI;
use crate::pki::{AUTHORITIES, Holders, LEAVES, Place};
use crate::plan::{ClusterPlan, HostPlan};
use crate::virtual_machine::{VirtualDisk, quoted};

/// The steps of a host's first boot: those of any host that its document needs, then those of its
/// role.
fn steps(plan: &ClusterPlan, host: &HostPlan) -> Vec<StepInfo> {
    let machine = MACHINE_STEPS.iter().filter(|step| match step.name {
        "users" | "ssh" => !plan.ssh_authorized_keys.is_empty(),
        "ntp" => !plan.ntp.is_empty(),
        "recovery-key" => plan.image.state().is_some(),
        // imagegen's documents have none of these.
        "timezone" | "locale" | "ca-certs" | "mounts" | "bootcmd" | "scripts" | "runcmd" => false,
        _ => true,
    });
    machine.chain(host.role.steps()).copied().collect()
}

/// As text. `changes` are those of the package's files.
pub fn text(
    plan: &ClusterPlan,
    package: Option<&Path>,
    output: &Path,
    changes: &[String],
) -> String {
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
        ("names", list(&apiserver_names(plan))),
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
                "valid for {} days from the day of issue{}",
                plan.validity_days,
                if plan.admin_days == plan.validity_days {
                    String::new()
                } else {
                    format!(", an administrator's for {}", plan.admin_days)
                }
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
    if !changes.is_empty() {
        let _ = writeln!(out, "\nchanges to the package's files");
        for change in changes {
            let _ = writeln!(out, "  {change}");
        }
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
pub fn json(
    plan: &ClusterPlan,
    package: Option<&Path>,
    output: &Path,
    changes: &[String],
) -> Value {
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
        "package_changes": changes,
        "output": output,
        "apiserver": plan.apiserver,
        "apiserver_names": apiserver_names(plan),
        "network": plan.network,
        "validity_days": plan.validity_days,
        "admin_validity_days": plan.admin_days,
        "image": plan.image,
        "kubernetes": plan.kubernetes,
        "hosts": hosts,
    })
}

/// The topology's names and addresses of the apiserver, and those of the package once it is read.
fn apiserver_names(plan: &ClusterPlan) -> Vec<String> {
    let names = &plan.apiserver_names;
    let ips = names.ips.iter().map(ToString::to_string);
    names.dns.iter().cloned().chain(ips).collect()
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

/// The sizes of an image on one line.
pub fn sizes(report: &ImageReport) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let mut text = format!(
        "kernel image {} MiB, compressed root {} MiB",
        mib(report.uki_size),
        mib(report.root_size)
    );
    if !report.site_packages.is_empty() {
        let sizes = report.site_packages.iter();
        let texts: Vec<_> = sizes
            .map(|(name, size)| format!("{name} {} MiB", mib(*size)))
            .collect();
        // Writing to a String cannot fail.
        let _ = write!(text, "; of its contents {}", texts.join(", "));
    }
    text + "\n"
}

/// What to do with the results in `folder`, on one screen. `program` is imagegen as it was called.
pub fn next_steps(plan: &ClusterPlan, folder: &Path, program: &str) -> String {
    /// The other hosts' commands differ by the name only.
    const SHOWN: usize = 4;
    let (program, output) = (quoted(program), quoted_path(folder));
    let flash = |host: &HostPlan| format!("{program} flash -o {output} --host {}", host.name);
    let shown = || plan.hosts.iter().take(SHOWN);
    let width = shown().map(|host| flash(host).len()).max().unwrap_or(0);
    let mut out = String::from("\nNext, attach each host's disk to this machine and write it:\n");
    for host in shown() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "  {:width$} /dev/sdX  # {}, {}",
            flash(host),
            host.role.as_str(),
            host.mac
        );
    }
    if let Some(more @ 1..) = plan.hosts.len().checked_sub(SHOWN) {
        let _ = writeln!(out, "  # and so on: {more} more hosts in {output}/hosts");
    }
    if let Some(host) = plan.hosts.first() {
        let file = format!("{}.raw", host.name);
        let mac = host.mac.to_string();
        let disk = VirtualDisk {
            host: &host.name,
            file: Path::new(&file),
            sector: SECTOR,
            mac: Some(&mac),
        };
        let _ = writeln!(
            out,
            "Or make the disk of a virtual machine:\n  {} --size 20G {file}\nand {disk}",
            flash(host),
        );
    }
    let _ = writeln!(
        out,
        "Switch the machines on in any order (UEFI, {}), and see them get Ready:\n  \
         kubectl --kubeconfig {} get nodes",
        match plan.image.secure_boot {
            Some(_) => "Secure Boot with `db.der` enrolled",
            None => "no Secure Boot",
        },
        quoted_path(&folder.join("admin.conf"))
    );
    out += &passphrases(plan, folder);
    out
}

/// Where the passphrases of encrypted documents are; empty if they have none.
pub fn passphrases(plan: &ClusterPlan, folder: &Path) -> String {
    if !plan.encrypts_documents {
        return String::new();
    }
    let file = Passphrases::path(PKI, "NAME");
    format!(
        "Each machine asks on its console for the passphrase of its document, once:\n  {}\n",
        quoted_path(&folder.join(file))
    )
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::check;

    #[test]
    fn plan_lists_the_steps_that_userdata_names() {
        let topology = include_str!("../tests/topologies/prod.yaml");
        let plan = check::read("prod.yaml", topology).unwrap().plan;
        let json = json(&plan, None, Path::new("prod"), &[]);
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

    #[test]
    fn plan_shows_the_apiservers_names() {
        let topology = include_str!("../tests/topologies/prod.yaml");
        let mut plan = check::read("prod.yaml", topology).unwrap().plan;
        plan.apiserver_names.add("k8s.example.com");
        plan.apiserver_names.add("10.0.0.9");
        let text = text(&plan, None, Path::new("prod"), &[]);
        let line = "  names         k8s.example.com, 10.0.0.9";
        assert!(text.lines().any(|found| found == line), "{text}");
        let json = json(&plan, None, Path::new("prod"), &[]);
        assert_eq!(
            json["apiserver_names"],
            json!(["k8s.example.com", "10.0.0.9"])
        );
    }

    #[test]
    fn next_steps_fit_a_screen_and_quote_paths() {
        let topology = include_str!("../tests/topologies/prod.yaml");
        let mut plan = check::read("prod.yaml", topology).unwrap().plan;
        let text = next_steps(&plan, Path::new("my prod"), "imagegen");
        for line in [
            "  imagegen flash -o 'my prod' --host m1 /dev/sdX  # master, 52:54:00:00:07:11",
            "  imagegen flash -o 'my prod' --host m0 --size 20G m0.raw",
            "  kubectl --kubeconfig 'my prod/admin.conf' get nodes",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert_eq!(text.matches("=52:54:00:00:07:10").count(), 3, "{text}");
        plan.hosts = vec![plan.hosts[3].clone(); 200];
        let text = next_steps(&plan, Path::new("prod"), "imagegen");
        assert!(text.contains("196 more hosts in prod/hosts"), "{text}");
        assert!(text.lines().count() <= 24, "{text}");
    }
}
