//! Which versions a default package is made of: one row for each minor release of Kubernetes.
//!
//! The newest patch releases that the module proxy serves completely. `go/README.md` tells how to
//! add a row.

use anyhow::{Context as _, Result};

use crate::modules::{self, Module};

/// One row of the table.
#[derive(Debug)]
pub(super) struct Release {
    /// `1.37`, as `imagegen package --kubernetes` names it.
    pub(super) minor: &'static str,
    pub(super) source: Source,
    pub(super) pause: &'static str,
    /// Where kubeadm of this release looks for its images.
    pub(super) repository: &'static str,
}

/// Where the programs of a release come from.
#[derive(Debug)]
pub(super) enum Source {
    /// Debian 12's source package of Kubernetes, Debian 13's containerd and etcd. kubelet before
    /// 1.23 speaks only CRI v1alpha2, which containerd 2 does not; Debian's 1.7 speaks both.
    Debian,
    /// Go modules.
    Modules {
        kubernetes: &'static Module,
        etcd: &'static Module,
    },
}

use Source::{Debian, Modules};

/// Newest first. `pause` is what kubeadm of that release names
/// (`cmd/kubeadm/app/constants/constants.go`); etcd 3.7 has none of the `--experimental-…` flags
/// that kubeadm before 1.36 writes for it.
pub(super) const RELEASES: &[Release] = &[
    release(
        "1.37",
        &modules::KUBERNETES_1_37,
        &modules::ETCD_3_7,
        "3.10.2",
    ),
    release(
        "1.36",
        &modules::KUBERNETES_1_36,
        &modules::ETCD_3_7,
        "3.10.2",
    ),
    release(
        "1.35",
        &modules::KUBERNETES_1_35,
        &modules::ETCD_3_6,
        "3.10.1",
    ),
    release(
        "1.34",
        &modules::KUBERNETES_1_34,
        &modules::ETCD_3_6,
        "3.10.1",
    ),
    release(
        "1.33",
        &modules::KUBERNETES_1_33,
        &modules::ETCD_3_6,
        "3.10",
    ),
    release(
        "1.32",
        &modules::KUBERNETES_1_32,
        &modules::ETCD_3_6,
        "3.10",
    ),
    release(
        "1.31",
        &modules::KUBERNETES_1_31,
        &modules::ETCD_3_6,
        "3.10",
    ),
    release("1.30", &modules::KUBERNETES_1_30, &modules::ETCD_3_6, "3.9"),
    release("1.29", &modules::KUBERNETES_1_29, &modules::ETCD_3_6, "3.9"),
    Release {
        minor: "1.20",
        source: Debian,
        pause: "3.2",
        repository: "k8s.gcr.io",
    },
];

const fn release(
    minor: &'static str,
    kubernetes: &'static Module,
    etcd: &'static Module,
    pause: &'static str,
) -> Release {
    Release {
        minor,
        source: Modules { kubernetes, etcd },
        pause,
        repository: "registry.k8s.io",
    }
}

impl Release {
    pub(super) fn newest() -> &'static Self {
        &RELEASES[0]
    }

    /// The row for `1.34`, `v1.34` or the exact version of a row, `1.34.4`.
    pub(super) fn find(wanted: &str) -> Result<&'static Self> {
        let name = wanted.strip_prefix('v').unwrap_or(wanted);
        let matches = |release: &&Release| {
            release.minor == name || release.version().is_some_and(|version| version == name)
        };
        RELEASES.iter().find(matches).with_context(|| {
            let known: Vec<_> = RELEASES
                .iter()
                .map(|release| release.version().unwrap_or(release.minor))
                .collect();
            format!(
                "imagegen does not build Kubernetes `{wanted}`; it builds {}",
                known.join(", ")
            )
        })
    }

    /// `1.37.2`; unknown before Debian's source is unpacked.
    pub(super) fn version(&self) -> Option<&'static str> {
        match self.source {
            Debian => None,
            Modules { kubernetes, .. } => Some(kubernetes.version),
        }
    }

    /// The number behind `1.`.
    pub(super) fn minor_number(&self) -> u32 {
        let number = self.minor.trim_start_matches("1.").parse();
        number.unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_is_found_by_minor_and_by_version() {
        for wanted in ["1.34", "v1.34", "1.34.4", "v1.34.4"] {
            assert_eq!(Release::find(wanted).map(|r| r.minor).ok(), Some("1.34"));
        }
        assert_eq!(
            Release::find("1.20").map(Release::minor_number).ok(),
            Some(20)
        );
    }

    #[test]
    fn unknown_release_is_refused_with_the_known_ones() {
        let error = Release::find("1.34.1")
            .expect_err("not in the table")
            .to_string();
        assert!(
            error.contains("`1.34.1`") && error.contains("1.34.4"),
            "{error}"
        );
        assert!(error.contains("1.20"), "{error}");
    }

    #[test]
    fn rows_are_sorted_newest_first_and_agree_with_their_modules() {
        let minors: Vec<_> = RELEASES.iter().map(Release::minor_number).collect();
        assert!(
            minors.windows(2).all(|pair| pair[0] > pair[1]),
            "{minors:?}"
        );
        for release in RELEASES {
            if let Some(version) = release.version() {
                assert!(version.starts_with(&format!("{}.", release.minor)));
            }
            if let Modules { kubernetes, .. } = release.source {
                assert!(
                    kubernetes.builds_pause(release.pause),
                    "{version:?}",
                    version = release.minor
                );
            }
        }
    }
}
