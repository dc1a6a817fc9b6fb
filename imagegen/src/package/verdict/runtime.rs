//! The container runtime: archives and programs of `containerd/`, or else of `docker/`.

use semver::Version;
use userdata::runtime::Runtime;

use super::super::Package;
use super::super::elf::Elf;
use super::super::probe::{Contents, Inside};
use super::{Placed, State, Verdict};

/// Plugins of upstream's archive, which has no folders, and of flannel and Calico.
const PLUGINS: [&str; 23] = [
    "bandwidth",
    "bridge",
    "calico",
    "calico-ipam",
    "dhcp",
    "dummy",
    "firewall",
    "flannel",
    "host-device",
    "host-local",
    "ipvlan",
    "loopback",
    "macvlan",
    "multus",
    "portmap",
    "ptp",
    "sbr",
    "static",
    "tap",
    "tuning",
    "vlan",
    "vrf",
    "win-bridge",
];

/// The last minor release whose kubelet speaks to docker itself.
const LAST_DOCKERSHIM: u64 = 23;

pub(super) fn judge(package: &Package, version: Option<&Version>, verdict: &mut Verdict) {
    let below = |folder: &str| {
        let names = package.names().filter(|name| name.starts_with(folder));
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let (containerd, docker) = (below("containerd/"), below("docker/"));
    let none = Vec::new();
    let folders = [&containerd, &docker];
    let folder = folders
        .into_iter()
        .find(|names| holds_runtime(package, names));
    let folder = folder.unwrap_or(&none);
    let before = verdict.errors.len();
    for name in containerd.iter().chain(&docker) {
        if !folder.contains(name) {
            let why = if folder.is_empty() {
                "neither an archive nor a program"
            } else {
                "the runtime is another"
            };
            verdict.part(name, State::NotUsed, why);
            continue;
        }
        match package.contents_of(name) {
            Some(Contents::Archive(inside)) => archive(name, inside, verdict),
            Some(Contents::Program(elf)) => program(name, None, *elf, verdict),
            Some(Contents::Broken(why)) => {
                verdict.errors.push(format!("{name}: unpacking it: {why}"));
            }
            Some(Contents::Html) => verdict.errors.push(format!(
                "{name}: a page of a web server, from a download that failed; get it again"
            )),
            _ => verdict.part(name, State::NotUsed, "neither an archive nor a program"),
        }
    }
    let has = |program: &str| {
        verdict.runtime.iter().any(|placed| placed.to == program)
            || package.contains(&program.replace("usr/", ""))
    };
    let from_docker = folder.iter().any(|name| name.starts_with("docker/"));
    let runtime = match version.map_or(0, |version| version.minor) {
        _ if !from_docker || !has("usr/bin/dockerd") => Runtime::Containerd,
        ..=LAST_DOCKERSHIM => Runtime::Dockershim,
        _ => Runtime::CriDockerd,
    };
    let needed: &[&str] = match runtime {
        Runtime::Containerd => &["containerd", "runc"],
        Runtime::Dockershim | Runtime::CriDockerd => &["docker", "containerd", "runc"],
    };
    let missing: Vec<&str> = needed
        .iter()
        .copied()
        .filter(|program| !has(&format!("usr/bin/{program}")))
        .collect();
    let whole = verdict.errors.len() == before;
    let home = if from_docker {
        "docker/"
    } else {
        "containerd/"
    };
    if whole && !missing.is_empty() {
        verdict.errors.push(format!(
            "the runtime lacks {}: add it to `bin/` or to the archive in `{home}`",
            missing.join(", ")
        ));
    }
    if whole && runtime.is_docker() && !has("usr/bin/containerd-shim-runc-v2") {
        verdict.errors.push(
            "the docker of `docker/` has no containerd-shim-runc-v2, so it is older than 20.10 and \
             cannot start containers with cgroup v2, which the image has; take the archive of \
             docker 20.10 or later, which this Kubernetes works with"
                .to_owned(),
        );
    }
    if let Some(version) = version
        && whole
        && runtime == Runtime::CriDockerd
        && !has("usr/bin/cri-dockerd")
    {
        verdict.errors.push(format!(
            "the kubelet of Kubernetes {version} speaks to docker only through cri-dockerd (from \
             1.{} on), which the package lacks; add its archive to `docker/`, or replace `docker/` \
             by containerd's archive in `containerd/`",
            LAST_DOCKERSHIM + 1
        ));
    }
    verdict.container_runtime = runtime;
}

fn holds_runtime(package: &Package, names: &[String]) -> bool {
    names.iter().any(|name| {
        matches!(
            package.contents_of(name),
            Some(
                Contents::Archive(_) | Contents::Broken(_) | Contents::Program(_) | Contents::Html
            )
        )
    })
}

fn archive(name: &str, inside: &Inside, verdict: &mut Verdict) {
    let before = verdict.runtime.len();
    for entry in &inside.entries {
        let (folder, base) = entry.name.rsplit_once('/').unwrap_or(("", &entry.name));
        let last = folder.rsplit('/').next().unwrap_or_default();
        let title = format!("{name}: {}", entry.name);
        match (last, entry.elf) {
            // A shared library is no program, wherever it lies.
            _ if base.contains(".so") => verdict.part(
                title,
                State::NotUsed,
                "the image has the libraries of Debian 13",
            ),
            (_, Some(elf)) => program(name, Some(&entry.name), elf, verdict),
            ("bin" | "sbin" | "docker", None) => {
                place(name, Some(&entry.name), base, folder, verdict);
            }
            _ => {
                let why = match base {
                    "containerd.service" => {
                        "the image has its own unit, which starts /usr/bin/containerd; a \
                         `conf/containerd.service` would take its place"
                    }
                    "crictl.yaml" => "the image has its own, or that of `conf/crictl.yaml`",
                    _ if entry.link => "a link outside of `bin/`",
                    _ if entry.name.contains("opt/containerd/cluster/") => {
                        "a script or file for clusters of GCE"
                    }
                    _ if folder.ends_with("cni/net.d") => {
                        "the pod network of `conf/net/` writes the node's CNI configuration"
                    }
                    _ => "neither a program nor a CNI plugin",
                };
                verdict.part(title, State::NotUsed, why);
            }
        }
    }
    if verdict.runtime.len() == before {
        verdict.errors.push(format!(
            "{name}: it has no program; is it an archive of a runtime?"
        ));
    }
}

fn program(file: &str, entry: Option<&str>, elf: Elf, verdict: &mut Verdict) {
    let path = entry.unwrap_or(file);
    let (folder, base) = path.rsplit_once('/').unwrap_or(("", path));
    if !elf.runs_here() {
        let title = entry.map_or(file.to_owned(), |entry| format!("{file}: {entry}"));
        return verdict.errors.push(format!(
            "{title}: a program for {}, and the node image is for x86_64 (amd64)",
            elf.machine()
        ));
    }
    place(file, entry, base, folder, verdict);
}

fn place(file: &str, entry: Option<&str>, base: &str, folder: &str, verdict: &mut Verdict) {
    // Upstream publishes runc as `runc.amd64`.
    let base = base.strip_suffix(".amd64").unwrap_or(base);
    let plugin = folder.ends_with("cni/bin")
        || PLUGINS.contains(&base) && !folder.ends_with("/bin") && folder != "bin";
    let to = if plugin {
        format!("{}/{base}", super::supply::PLUGINS)
    } else {
        format!("usr/bin/{base}")
    };
    let title = entry.map_or(file.to_owned(), |entry| format!("{file}: {entry}"));
    if verdict
        .programs
        .iter()
        .any(|program| to == format!("usr/bin/{program}"))
    {
        return verdict.part(
            title,
            State::NotUsed,
            format!("`bin/{base}` takes its place"),
        );
    }
    if let Some(before) = verdict.runtime.iter().find(|placed| placed.to == to) {
        let why = format!("`{}` has {base} too and comes first", before.file);
        return verdict.part(title, State::NotUsed, why);
    }
    verdict.part(title, State::Used, format!("/{to}"));
    verdict.runtime.push(Placed {
        file: file.to_owned(),
        entry: entry.map(str::to_owned),
        to,
    });
}
