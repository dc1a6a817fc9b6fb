//! Programs, hooks, scripts and all other files of a package.

use super::super::listing::Kind;
use super::super::probe::Contents;
use super::super::{HOOKS, Package};
use super::{State, Verdict};

/// Programs without which there is no node.
const REQUIRED: [&str; 3] = ["bin/kubeadm", "bin/kubelet", "bin/kubectl"];

pub(super) fn judge(package: &Package, verdict: &mut Verdict) {
    for name in &package.listing.macos {
        verdict.part(
            name,
            State::NotUsed,
            "macOS wrote it beside the package's files",
        );
    }
    for name in package.names() {
        let (folder, rest) = name.split_once('/').unwrap_or(("", name));
        match folder {
            "bin" => bin(package, name, rest, verdict),
            "hooks" => hook(package, name, rest, verdict),
            "shell" if super::scripts::is_sealos(rest) => script(package, name, verdict),
            "shell" => verdict.part(
                name,
                State::NotUsed,
                "none of sealos's scripts, and no node runs it; what it does belongs to a hook",
            ),
            "lib64" => verdict.part(
                name,
                State::NotUsed,
                "the image has the libraries of Debian 13, libseccomp among them",
            ),
            "conf" | "images" | "containerd" | "docker" => {}
            _ if name == "Metadata" => metadata(package, verdict),
            _ => {
                let of_cluster = super::super::cluster::reason(name);
                let why = of_cluster.filter(|_| package.is_cluster_image());
                verdict.part(name, State::NotUsed, why.unwrap_or("no part of the layout"));
            }
        }
    }
}

/// Packages of sealos 4 and of sealer have another layout.
pub(in crate::package) fn cluster_image(package: &Package) -> Option<String> {
    if package.is_cluster_image() {
        return None;
    }
    let has = |start: &str| package.names().any(|name| name.starts_with(start));
    let signs = [
        "registry/docker/registry/v2/",
        "blobs/sha256/",
        "images/shim/",
        "Kubefile",
    ];
    let sign = signs.into_iter().find(|sign| has(sign))?;
    Some(format!(
        "`{sign}` marks a cluster image of sealos 4 or sealer whose files imagegen cannot read so; \
         give it as a folder or a tar archive of its files (`buildah mount`, `sealos create \
         --short`), with `bin/`, `cri/` and `registry/`"
    ))
}

fn bin(package: &Package, name: &str, rest: &str, verdict: &mut Verdict) {
    let contents = package.contents_of(name);
    let required = REQUIRED.contains(&name) || name == "bin/crictl";
    let fault = match contents {
        Some(Contents::Program(elf)) if !elf.runs_here() => format!(
            "a program for {}, and the node image is for x86_64 (amd64); take the release for \
             amd64",
            elf.machine()
        ),
        Some(Contents::Program(elf)) => {
            if elf.machine == 0 {
                verdict
                    .warnings
                    .push(format!("{name}: its ELF header names no machine"));
            }
            return used(name, rest, verdict);
        }
        Some(Contents::Script(line)) => match interpreter(line) {
            Err(why) => why,
            Ok(()) if rest == PRE_START && is_done_by_image(package, name, verdict) => {
                let why = "the image does what it does: modules, settings, no swap";
                return verdict.part(name, State::NotUsed, why);
            }
            Ok(()) => return used(name, rest, verdict),
        },
        Some(Contents::Html) => {
            "no program but a page of a web server, from a download that failed; get it again"
                .to_owned()
        }
        Some(Contents::Empty) => "empty; copy it again".to_owned(),
        Some(Contents::Archive(_) | Contents::Broken(_)) => {
            "an archive and no program; unpack it".to_owned()
        }
        Some(Contents::Other) if required || package.is_executable(name) => {
            "neither an ELF program nor a script with `#!`; no kernel can run it".to_owned()
        }
        Some(Contents::Other) => {
            return verdict.part(name, State::NotUsed, "no program: neither ELF nor `#!`");
        }
        None => return verdict.part(name, State::NotUsed, "it leads to no file"),
    };
    verdict.errors.push(format!("{name}: {fault}"));
}

const PRE_START: &str = "kubelet-pre-start.sh";

/// A script of sealos: done by the image, or refused with each line that it does not do.
fn script(package: &Package, name: &str, verdict: &mut Verdict) {
    let bytes = package.file(name).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    verdict.part(
        name,
        State::NotUsed,
        "it prepares a running host, which the image does itself",
    );
    for (line, text) in super::scripts::unknown(package, &text) {
        verdict.errors.push(format!(
            "{name}:{line}: `{text}`: nothing on a node does this; put the line into a hook, such \
             as `hooks/before-role`, or into the file `hooks/waived` if no node needs it"
        ));
    }
}

/// Whether the script before each start of the kubelet does only what the image has done.
fn is_done_by_image(package: &Package, name: &str, verdict: &mut Verdict) -> bool {
    let bytes = package.file(name).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let unknown = super::scripts::unknown(package, &text);
    for (line, text) in &unknown {
        verdict.warnings.push(format!(
            "{name}:{line}: `{text}`: this is none of sealos's lines; the script runs as it is, \
             before each start of the kubelet"
        ));
    }
    unknown.is_empty()
}

fn used(name: &str, rest: &str, verdict: &mut Verdict) {
    if rest.contains('/') {
        return verdict.part(
            name,
            State::NotUsed,
            "a folder below `bin/` is not installed",
        );
    }
    if rest == "conntrack" {
        return verdict.part(
            name,
            State::NotUsed,
            "the image has Debian's, with the libraries that it loads",
        );
    }
    verdict.programs.push(rest.to_owned());
    verdict.part(name, State::Used, format!("/usr/bin/{rest}"));
}

/// Whether the kernel finds the program of a `#!` line.
fn interpreter(line: &str) -> Result<(), String> {
    if line.ends_with('\r') {
        return Err(
            "line 1 ends with CR LF, and the kernel looks for an interpreter with CR in its name; \
             save it with LF (`sed -i 's/\\r$//'`)"
                .to_owned(),
        );
    }
    Ok(())
}

/// Hooks that would never run, or could not.
fn hook(package: &Package, name: &str, rest: &str, verdict: &mut Verdict) {
    let contents = package.contents_of(name);
    let known = HOOKS.contains(&name);
    let fault = match contents {
        Some(Contents::Script(line)) => interpreter(line).err(),
        Some(Contents::Program(elf)) if !elf.runs_here() => {
            Some(format!("a program for {}, not for x86_64", elf.machine()))
        }
        Some(Contents::Html) => Some("a page of a web server; get it again".to_owned()),
        Some(Contents::Empty) if known => Some("empty".to_owned()),
        Some(Contents::Other | Contents::Archive(_) | Contents::Broken(_)) if known => {
            Some("neither an ELF program nor a script; its first line must be `#!/bin/sh`".into())
        }
        _ => None,
    };
    if let Some(fault) = fault {
        return verdict.errors.push(format!("{name}: {fault}"));
    }
    let stem = rest.split('.').next().unwrap_or(rest);
    let bare = |name: &str| name.replace(['-', '_'], "").to_lowercase();
    let names = || HOOKS.iter().map(|hook| hook.trim_start_matches("hooks/"));
    let meant = names()
        .find(|hook| bare(hook) == bare(stem))
        .or_else(|| yaml::nearest(stem, names()));
    match meant {
        _ if known => verdict.part(name, State::Used, "a hook"),
        Some(meant) if !rest.contains('/') => verdict.errors.push(format!(
            "{name}: no hook has this name, so nothing would run it; call it `hooks/{meant}` and \
             chmod +x it"
        )),
        _ => {
            let program = matches!(contents, Some(Contents::Script(_) | Contents::Program(_)));
            if program && !rest.contains('/') {
                verdict.warnings.push(format!(
                    "{name}: nothing runs it by itself: hooks are {}",
                    HOOKS.join(", ")
                ));
            }
            verdict.part(name, State::Used, "a file for hooks");
        }
    }
}

/// sealos's description of the package must agree with it.
fn metadata(package: &Package, verdict: &mut Verdict) {
    let text = package.file("Metadata").ok().flatten().unwrap_or_default();
    let Ok(data) = serde_json::from_slice::<serde_json::Value>(&text) else {
        return verdict.part("Metadata", State::NotUsed, "it is no JSON");
    };
    if let Some(arch) = data["arch"].as_str()
        && !matches!(arch, "amd64" | "x86_64" | "")
    {
        verdict.errors.push(format!(
            "Metadata: the package is for {arch}, and the node image is for amd64"
        ));
    }
    let version = data["k8sVersion"]
        .as_str()
        .unwrap_or_default()
        .trim_start_matches('v');
    if let Some(own) = verdict
        .kubernetes
        .as_deref()
        .filter(|own| !version.is_empty() && *own != version)
    {
        verdict.errors.push(format!(
            "Metadata: k8sVersion is {version}, and `conf/kubeadm.yaml` says Kubernetes {own}"
        ));
    }
    verdict.part("Metadata", State::Used, "compared with the package");
}

impl Package {
    /// What a file is; that of its target for a symlink.
    pub(in crate::package) fn contents_of(&self, name: &str) -> Option<&Contents> {
        let mut name = name.to_owned();
        for _ in 0..8 {
            match self.listing.get(&name)? {
                Kind::File { .. } => return self.contents.get(&name),
                Kind::Symlink { target } => {
                    name = super::super::oci::index::beside(&name, target)?;
                }
            }
        }
        None
    }

    fn is_executable(&self, name: &str) -> bool {
        matches!(
            self.listing.get(name),
            Some(Kind::File {
                executable: true,
                ..
            })
        )
    }
}
