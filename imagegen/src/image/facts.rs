//! What an image holds, read from its package: the image file that firstboot asks, and the checks that a package hangs
//! together.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use semver::Version;
use userdata::contract::API_VERSION;
use userdata::image_info::{ImageInfo, KubeadmPhases};

use crate::package::Package;
use crate::package::images::Image;

/// Add-ons that `kubeadm init` installs, and the last part of their images' names.
const ADDONS: &[(&str, &str)] = &[("coredns", "coredns"), ("kube-proxy", "kube-proxy")];

/// Images without which there is no control plane.
const CONTROL_PLANE: &[&str] = &[
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "etcd",
    "pause",
];

/// The image file for `package`, whose images are `images`.
pub fn image_file(package: &Package, images: &[Image]) -> Result<ImageInfo> {
    let version = package.kubernetes_version()?;
    let references: BTreeSet<String> = images
        .iter()
        .flat_map(|i| i.references.iter().cloned())
        .collect();
    let missing: Vec<&str> = CONTROL_PLANE
        .iter()
        .copied()
        .filter(|name| find(&references, name).is_none())
        .collect();
    ensure!(
        missing.is_empty(),
        "the package has no image of {}; add the archive to `images/` (first boot has no registry to ask)",
        missing.join(", ")
    );
    let apiserver = find(&references, "kube-apiserver").context("no image of kube-apiserver")?;
    let (repository, tag) = split(apiserver);
    if tag.trim_start_matches('v') != version.to_string() {
        bail!(
            "`conf/kubeadm.yaml` says Kubernetes {version}, but the package holds `{apiserver}`; \
             its kubeadm would ask for an image that is not there"
        );
    }
    let repository = repository
        .rsplit_once('/')
        .map_or("", |(r, _)| r)
        .to_owned();
    let etcd = find(&references, "etcd").context("no image of etcd")?;
    let pause = find(&references, "pause").context("no image of pause")?;
    Ok(ImageInfo {
        api_version: API_VERSION.to_owned(),
        kind: "Image".to_owned(),
        kubeadm_api_version: kubeadm_api_version(&version)?.to_owned(),
        kubernetes_version: version.to_string(),
        cri_socket: "/run/containerd/containerd.sock".to_owned(),
        image_repository: repository,
        etcd_image_tag: split(etcd).1.to_owned(),
        pause_image: pause.to_owned(),
        missing_addons: ADDONS
            .iter()
            .filter(|(_, image)| find(&references, image).is_none())
            .map(|(addon, _)| (*addon).to_owned())
            .collect(),
        coredns_image: find(&references, "coredns").map(str::to_owned),
        // Asked of the package's kubeadm while the image is built.
        kubeadm_phases: KubeadmPhases::default(),
        images: references.iter().cloned().collect(),
        package_digest: package.digest(),
    })
}

/// The newest configuration format that this release's kubeadm reads (Kubernetes' own deprecation table).
fn kubeadm_api_version(version: &Version) -> Result<&'static str> {
    Ok(match (version.major, version.minor) {
        (1, 15..=21) => "kubeadm.k8s.io/v1beta2",
        (1, 22..=30) => "kubeadm.k8s.io/v1beta3",
        (1, 31..) => "kubeadm.k8s.io/v1beta4",
        _ => bail!(
            "Kubernetes {version} is older than 1.15, whose kubeadm reads no configuration that we write"
        ),
    })
}

/// The reference whose repository ends in `name`.
fn find<'a>(references: &'a BTreeSet<String>, name: &str) -> Option<&'a str> {
    references
        .iter()
        .map(String::as_str)
        .find(|reference| split(reference).0.rsplit('/').next() == Some(name))
}

/// A reference as repository and tag.
fn split(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        // The colon of a registry's port is not a tag's.
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_split_at_the_tag_and_not_at_the_port() {
        assert_eq!(split("k8s.gcr.io/pause:3.2"), ("k8s.gcr.io/pause", "3.2"));
        assert_eq!(split("host:5000/pause"), ("host:5000/pause", "latest"));
        assert_eq!(split("host:5000/a/pause:3"), ("host:5000/a/pause", "3"));
    }

    #[test]
    fn each_release_gets_the_configuration_its_kubeadm_reads() -> Result<()> {
        for (release, expected) in [
            ("1.20.2", "v1beta2"),
            ("1.22.0", "v1beta3"),
            ("1.30.9", "v1beta3"),
            ("1.31.0", "v1beta4"),
            ("1.36.1", "v1beta4"),
        ] {
            let found = kubeadm_api_version(&Version::parse(release)?)?;
            assert!(found.ends_with(expected), "{release}: {found}");
        }
        assert!(kubeadm_api_version(&Version::new(1, 14, 0)).is_err());
        Ok(())
    }
}
