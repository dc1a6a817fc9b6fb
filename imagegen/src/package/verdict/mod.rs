//! The verdict on a package: what each part becomes in a node image, what the image supplies, and
//! all that is wrong. It needs no root, writes nothing and reads only what opening kept.

mod agree;
mod base;
mod choose;
mod conf;
mod containerd;
pub(crate) mod docker;
mod files;
mod images;
mod needs;
mod report;
mod runtime;
mod scripts;
mod supply;
mod units;

use std::collections::BTreeMap;

use serde::Serialize;
use userdata::runtime::Runtime;

use super::Package;
use super::manifest::Manifests;

pub(crate) use self::agree::Places;
use self::agree::PodRange;
use self::base::Base;
use self::choose::Choice;
pub(super) use self::files::cluster_image;

/// A file of the image that carries all manifests, below `conf/`.
pub(crate) const MANIFESTS: &str = "net/package.yaml";

/// What becomes of a package.
#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    /// The release of Kubernetes.
    pub kubernetes: Option<String>,
    pub digest: String,
    pub container_runtime: Runtime,
    pub parts: Vec<Part>,
    pub images: Vec<PackedImage>,
    /// Why no image can be built; each has a place and a cure.
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
    #[serde(skip)]
    pub(crate) choice: Option<Choice>,
    /// Contents of files below `conf/` as the image has them.
    #[serde(skip)]
    pub(crate) conf: BTreeMap<String, Vec<u8>>,
    #[serde(skip)]
    pub(crate) runtime: Vec<Placed>,
    /// kubeadm's configuration as the package has it.
    #[serde(skip)]
    pub(crate) base: Base,
    /// Values that were completed in manifests.
    #[serde(skip)]
    pub(crate) manifest_changes: Vec<String>,
    #[serde(skip)]
    pub(crate) pod_ranges: Vec<PodRange>,
    /// Files of `bin/` that are programs.
    #[serde(skip)]
    pub(crate) programs: Vec<String>,
    /// Programs of the default package, by their places in the root.
    #[serde(skip)]
    pub(crate) supplied: Vec<Supplied>,
}

/// A part of the package, or one that it lacks.
#[derive(Debug, Serialize)]
pub struct Part {
    /// The name in the package; `archive: entry` inside an archive.
    pub name: String,
    pub state: State,
    /// Where it goes, or why it does not.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Used,
    /// Used, with a change that `detail` names.
    Changed,
    /// The image has its own, because the package has none.
    Supplied,
    NotUsed,
}

/// An image of the package.
#[derive(Debug, Serialize)]
pub struct PackedImage {
    pub name: String,
    pub archive: String,
    /// Who names it: kubeadm, containerd, a manifest.
    pub named_by: Vec<String>,
}

/// A file of the runtime and its place in the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// `containerd/containerd.tar.gz`, or the file itself.
    pub(crate) file: String,
    /// The entry of an archive.
    pub(crate) entry: Option<String>,
    /// `usr/bin/runc`
    pub(crate) to: String,
}

/// A program of the default package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Supplied {
    pub(crate) program: &'static str,
    /// `usr/bin/crictl`
    pub(crate) to: String,
}

impl Verdict {
    /// Judges a package whose entries are valid.
    pub(super) fn of(package: &Package) -> Self {
        let mut verdict = Self {
            digest: package.digest(),
            ..Self::default()
        };
        let version = match package.kubernetes_version() {
            Ok(version) => Some(version),
            Err(error) => {
                verdict.errors.push(format!("{error:#}"));
                None
            }
        };
        if let Some(old) = version.as_ref().filter(|v| (v.major, v.minor) < (1, 15)) {
            verdict.errors.push(format!(
                "conf/kubeadm.yaml: Kubernetes {old} is older than 1.15, whose kubeadm reads no \
                 configuration that firstboot writes; take a newer package"
            ));
        }
        verdict.kubernetes = version.as_ref().map(ToString::to_string);
        files::judge(package, &mut verdict);
        runtime::judge(package, version.as_ref(), &mut verdict);
        supply::judge(&mut verdict);
        let archives = images::read(package, &mut verdict);
        let mut kubeadm = conf::kubeadm(package, &mut verdict);
        units::judge(package, version.as_ref(), &mut verdict);
        let docker = verdict.container_runtime.is_docker();
        let daemon = docker.then(|| docker::read(package, &mut verdict));
        let own = match daemon {
            None => containerd::read(package, &mut verdict),
            Some(_) => None,
        };
        let manifests = manifests(package, version.as_ref(), &mut verdict);
        if let Some(version) = version.as_ref().filter(|_| !archives.broken) {
            let sandbox = own.as_ref().and_then(|own| own.sandbox.as_ref());
            choose::choose(&archives, version, &kubeadm, sandbox, &mut verdict);
        }
        images::manifests(&archives, &manifests.images, &mut verdict);
        images::list(archives, &mut verdict);
        verdict.pod_ranges = agree::pod_ranges(&manifests.objects);
        let mounts = agree::mounts_flex_volumes(&manifests.objects);
        let changes = needs::complete(
            &kubeadm.base,
            &mut kubeadm.documents,
            version.as_ref(),
            mounts,
            &mut verdict,
        );
        match daemon {
            None => containerd::complete(own, kubeadm, changes, &mut verdict),
            Some(daemon) => docker::complete(daemon, kubeadm, changes, &mut verdict),
        }
        verdict.parts.sort_by(|a, b| a.name.cmp(&b.name));
        verdict
    }

    fn part(&mut self, name: impl Into<String>, state: State, detail: impl Into<String>) {
        self.parts.push(Part {
            name: name.into(),
            state,
            detail: detail.into(),
        });
    }

    /// All errors as one, if there are any.
    pub fn refuse(&self) -> anyhow::Result<()> {
        match self.errors.as_slice() {
            [] => Ok(()),
            [error] => Err(anyhow::anyhow!("{error}")),
            errors => Err(anyhow::anyhow!(
                "{} errors:\n  {}",
                errors.len(),
                errors.join("\n  ")
            )),
        }
    }
}

/// `conf/net/`, else `conf/calico.yaml`, which sealos's packages have in both places.
fn manifests(
    package: &Package,
    version: Option<&semver::Version>,
    verdict: &mut Verdict,
) -> Manifests {
    let is_yaml = |name: &&str| name.ends_with(".yaml") || name.ends_with(".yml");
    let mut names: Vec<&str> = package
        .names()
        .filter(|name| {
            name.strip_prefix("conf/net/")
                .is_some_and(|n| !n.contains('/'))
        })
        .filter(is_yaml)
        .collect();
    let own = names.is_empty();
    if own && package.contains("conf/calico.yaml") {
        names.push("conf/calico.yaml");
    }
    let mut files = Vec::new();
    for name in &names {
        match package.file(name) {
            Ok(bytes) => files.push(((*name).to_owned(), bytes.unwrap_or_default())),
            Err(error) => verdict.errors.push(format!("{name}: {error:#}")),
        }
    }
    let manifests = Manifests::read(&files, version);
    for name in package.names().filter(|name| name.starts_with("conf/")) {
        if names.contains(&name) {
            let count = manifests
                .objects
                .iter()
                .filter(|object| object.file == name)
                .count();
            verdict.part(
                name,
                State::Used,
                format!("master0 applies its {count} object(s)"),
            );
        } else if name.starts_with("conf/net/") {
            verdict.part(
                name,
                State::NotUsed,
                "master0 applies `conf/net/*.yaml` and `.yml` only",
            );
        } else if name == "conf/calico.yaml" {
            verdict.part(
                name,
                State::NotUsed,
                "the manifests of `conf/net/` take its place",
            );
        }
    }
    if names.is_empty() {
        verdict.warnings.push(
            "the package has no manifest of a pod network in `conf/net/`; nodes stay NotReady \
             until one is applied"
                .to_owned(),
        );
    }
    for change in &manifests.changes {
        verdict.warnings.push(change.clone());
        verdict.manifest_changes.push(change.clone());
    }
    verdict.errors.extend(manifests.errors.iter().cloned());
    verdict.warnings.extend(manifests.warnings.iter().cloned());
    if !manifests.objects.is_empty() {
        let text = manifests.text();
        // firstboot's reader is stricter than Kubernetes'.
        for (object, part) in manifests.objects.iter().zip(text.split("---\n")) {
            if let Err(found) = yaml::parse::<serde_json::Value>(&object.file, part) {
                let why = found.lines().next().unwrap_or_default();
                verdict
                    .errors
                    .push(format!("{}{why}", object.at(object.node.place)));
            }
        }
        verdict.conf.insert(MANIFESTS.to_owned(), text.into_bytes());
    }
    manifests
}
