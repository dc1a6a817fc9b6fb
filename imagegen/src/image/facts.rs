//! What an image holds, read from its package: the image file that firstboot asks.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use semver::Version;
use userdata::contract::API_VERSION;
use userdata::image_info::{ImageInfo, ImpossibleKeys, KubeadmPhases};

use crate::package::images::Image;
use crate::package::{Package, Verdict};

/// The image file for `package`, whose images are `images`.
pub fn image_file(package: &Package, verdict: &Verdict, images: &[Image]) -> Result<ImageInfo> {
    let version = package.kubernetes_version()?;
    let references: BTreeSet<String> = images
        .iter()
        .flat_map(|i| i.references.iter().cloned())
        .collect();
    let choice = verdict.choice.clone();
    let choice = choice.context("the package has no image of the control plane")?;
    Ok(ImageInfo {
        api_version: API_VERSION.to_owned(),
        kind: "Image".to_owned(),
        kubeadm_api_version: kubeadm_api_version(&version)?.to_owned(),
        kubernetes_version: version.to_string(),
        runtime: verdict.container_runtime,
        image_repository: choice.repository,
        etcd_image_tag: choice.etcd_tag,
        pause_image: choice.pause,
        missing_addons: choice.missing_addons,
        coredns_image: choice.coredns,
        // Asked of the package's kubeadm while the image is built.
        kubeadm_phases: KubeadmPhases::default(),
        images: references.iter().cloned().collect(),
        package_digest: package.digest(),
        // The caller knows the topology.
        impossible_keys: ImpossibleKeys::default(),
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

#[cfg(test)]
mod tests {
    use super::*;

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
