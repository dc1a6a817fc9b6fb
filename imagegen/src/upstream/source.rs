//! Which files of upstream a package is made of, and which releases of them.

use semver::Version;

use super::fetch::Wanted;
use super::mirror::{self, Mirror};
use crate::cli::{Arch, PackageRuntime};

/// kubeadm before 1.20 has another configuration than firstboot writes.
pub(super) const OLDEST_MINOR: u64 = 20;
/// From this minor release on, the kubelet asks docker through cri-dockerd.
const CRI_DOCKERD_SINCE: u64 = 24;
/// The kubelet before 1.23 speaks only CRI v1alpha2, which containerd 2 does not.
const CONTAINERD_2_SINCE: u64 = 23;

const CONTAINERD_1: &str = "1.7.35";
const RUNC: &str = "1.5.3";
const DOCKER: &str = "28.5.2";
/// dockershim asks for an API that later releases serve no more.
const DOCKER_OF_DOCKERSHIM: &str = "20.10.24";
const CRI_DOCKERD: &str = "0.4.3";

/// Names for `--release`.
pub(super) const COMPONENTS: [&str; 7] = [
    "containerd",
    "runc",
    "cni-plugins",
    "crictl",
    "flannel",
    "docker",
    "cri-dockerd",
];

/// Another release of a program than the usual one.
#[derive(Debug, Clone)]
pub struct Release {
    component: String,
    version: String,
}

/// `containerd=2.1.4`.
pub fn parse_release(text: &str) -> Result<Release, String> {
    let (component, version) = text.split_once('=').unwrap_or((text, ""));
    if !COMPONENTS.contains(&component) {
        let known = COMPONENTS.join(", ");
        return Err(format!(
            "write `NAME=VERSION`, with one of these names: {known}"
        ));
    }
    let version = version.strip_prefix('v').unwrap_or(version);
    if Version::parse(version).is_err() {
        return Err(format!("write a whole version: `{component}=1.2.3`"));
    }
    Ok(Release {
        component: component.to_owned(),
        version: version.to_owned(),
    })
}

/// The release of Kubernetes that a person asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kubernetes {
    Exact(Version),
    /// The newest patch release of 1.N.
    Minor(u64),
}

/// `v1.34.4`, or `1.34`.
pub fn parse_kubernetes(text: &str) -> Result<Kubernetes, String> {
    let name = text.strip_prefix('v').unwrap_or(text);
    let wrong = || "write a release of Kubernetes: `v1.34.4`, or `1.34` for its newest".to_owned();
    let found = match Version::parse(name) {
        Ok(version) if version.major == 1 => Kubernetes::Exact(version),
        Ok(_) => return Err(wrong()),
        Err(_) => {
            let minor = name.strip_prefix("1.").and_then(|minor| minor.parse().ok());
            Kubernetes::Minor(minor.ok_or_else(wrong)?)
        }
    };
    let (Kubernetes::Exact(Version { minor, .. }) | Kubernetes::Minor(minor)) = &found;
    if *minor < OLDEST_MINOR {
        return Err(format!("nodes run Kubernetes 1.{OLDEST_MINOR} and newer"));
    }
    Ok(found)
}

/// Where a file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum To {
    /// A path in the package, as it is.
    File { path: String, executable: bool },
    /// The program of this name in the archive, to `bin/`.
    Unpacked(&'static str),
    /// Not in the package: the kubeadm for this machine, which names the images.
    Kubeadm,
}

#[derive(Debug, Clone)]
pub(super) struct Asset {
    pub(super) wanted: Wanted,
    pub(super) to: To,
}

/// What decides the files.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    pub(super) kubernetes: &'a Version,
    pub(super) arch: Arch,
    pub(super) runtime: PackageRuntime,
    pub(super) flannel: bool,
    pub(super) releases: &'a [Release],
    pub(super) mirrors: &'a [Mirror],
}

impl Sources<'_> {
    pub(super) fn assets(&self) -> Vec<Asset> {
        let mut assets = self.kubernetes();
        let minor = self.kubernetes.minor;
        let arch = self.arch.kubernetes();
        let folder = match self.runtime {
            PackageRuntime::Containerd => {
                let usual = match minor {
                    ..CONTAINERD_2_SINCE => CONTAINERD_1,
                    _ => default_package::RELEASES.containerd,
                };
                let version = self.release("containerd", usual);
                assets.push(self.github(
                    &format!("containerd/containerd/releases/download/v{version}"),
                    &format!("containerd-{version}-linux-{arch}.tar.gz"),
                    Checksums::Suffix(".sha256sum"),
                    |name| file(&format!("containerd/{name}"), false),
                ));
                let version = self.release("runc", RUNC);
                assets.push(self.github(
                    &format!("opencontainers/runc/releases/download/v{version}"),
                    &format!("runc.{arch}"),
                    Checksums::File("runc.sha256sum"),
                    |_| file("containerd/runc", true),
                ));
                "containerd"
            }
            PackageRuntime::Docker => {
                self.docker(&mut assets);
                "docker"
            }
        };
        let version = self.release("cni-plugins", default_package::RELEASES.cni_plugins);
        assets.push(self.github(
            &format!("containernetworking/plugins/releases/download/v{version}"),
            &format!("cni-plugins-linux-{arch}-v{version}.tgz"),
            Checksums::Suffix(".sha256"),
            |name| file(&format!("{folder}/{name}"), false),
        ));
        let version = self.release("crictl", default_package::RELEASES.crictl);
        assets.push(self.github(
            &format!("kubernetes-sigs/cri-tools/releases/download/v{version}"),
            &format!("crictl-v{version}-linux-{arch}.tar.gz"),
            Checksums::Suffix(".sha256"),
            |_| To::Unpacked("crictl"),
        ));
        if self.flannel {
            let version = self.release("flannel", default_package::RELEASES.flannel);
            assets.push(self.github(
                &format!("flannel-io/flannel/releases/download/v{version}"),
                "kube-flannel.yml",
                Checksums::None,
                |_| file("conf/net/kube-flannel.yml", false),
            ));
        }
        assets
    }

    /// Kubernetes' own programs.
    fn kubernetes(&self) -> Vec<Asset> {
        let of = |arch: &str, name: &str, to: To| {
            let path = format!("release/v{}/bin/linux/{arch}/{name}", self.kubernetes);
            self.asset("dl.k8s.io", &path, Some(&format!("{path}.sha256")), to)
        };
        let arch = self.arch.kubernetes();
        let names = ["kubeadm", "kubelet", "kubectl"];
        let own = names.map(|name| of(arch, name, file(&format!("bin/{name}"), true)));
        let mut assets = Vec::from(own);
        // The names of images are the same for every architecture.
        assets.push(of(Arch::here().kubernetes(), "kubeadm", To::Kubeadm));
        assets
    }

    fn docker(&self, assets: &mut Vec<Asset>) {
        let shim = self.kubernetes.minor < CRI_DOCKERD_SINCE;
        let usual = if shim { DOCKER_OF_DOCKERSHIM } else { DOCKER };
        let version = self.release("docker", usual);
        let arch = self.arch.machine();
        assets.push(self.asset(
            "download.docker.com",
            &format!("linux/static/stable/{arch}/docker-{version}.tgz"),
            None,
            file(&format!("docker/docker-{version}.tgz"), false),
        ));
        if !shim {
            let version = self.release("cri-dockerd", CRI_DOCKERD);
            let arch = self.arch.kubernetes();
            assets.push(self.github(
                &format!("Mirantis/cri-dockerd/releases/download/v{version}"),
                &format!("cri-dockerd-{version}.{arch}.tgz"),
                Checksums::None,
                |name| file(&format!("docker/{name}"), false),
            ));
        }
    }

    /// `--release`, else `usual`.
    fn release(&self, component: &str, usual: &str) -> String {
        let own = self.releases.iter().rfind(|own| own.component == component);
        own.map_or(usual, |own| own.version.as_str()).to_owned()
    }

    fn github(
        &self,
        folder: &str,
        name: &str,
        checksums: Checksums,
        to: impl FnOnce(&str) -> To,
    ) -> Asset {
        let path = format!("{folder}/{name}");
        let beside = match checksums {
            Checksums::Suffix(suffix) => Some(format!("{path}{suffix}")),
            Checksums::File(file) => Some(format!("{folder}/{file}")),
            Checksums::None => None,
        };
        self.asset("github.com", &path, beside.as_deref(), to(name))
    }

    fn asset(&self, host: &str, path: &str, checksums: Option<&str>, to: To) -> Asset {
        let url = |path: &str| mirror::url(self.mirrors, host, path);
        Asset {
            wanted: Wanted {
                url: url(path),
                checksums: checksums.map(url),
            },
            to,
        }
    }
}

/// Where a project publishes the checksum of a file.
enum Checksums {
    Suffix(&'static str),
    File(&'static str),
    None,
}

fn file(path: &str, executable: bool) -> To {
    To::File {
        path: path.to_owned(),
        executable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(kubernetes: &str, runtime: PackageRuntime, releases: &[Release]) -> String {
        let kubernetes = Version::parse(kubernetes).expect("a version");
        let sources = Sources {
            kubernetes: &kubernetes,
            arch: Arch::Arm64,
            runtime,
            flannel: true,
            releases,
            mirrors: &[],
        };
        let urls = sources.assets().into_iter();
        let urls: Vec<_> = urls.map(|asset| asset.wanted.url).collect();
        urls.join("\n")
    }

    #[test]
    fn every_minor_release_gets_a_runtime_that_it_can_ask() {
        let containerd = PackageRuntime::Containerd;
        let found = urls("1.22.17", containerd, &[]);
        assert!(
            found.contains("/v1.7.35/containerd-1.7.35-linux-arm64.tar.gz"),
            "{found}"
        );
        let found = urls("1.34.4", containerd, &[]);
        assert!(found.contains("/containerd-2."), "{found}");
        assert!(found.contains("https://dl.k8s.io/release/v1.34.4/bin/linux/arm64/kubelet"));
        let docker = PackageRuntime::Docker;
        let found = urls("1.23.17", docker, &[]);
        assert!(found.contains("/aarch64/docker-20.10.24.tgz"), "{found}");
        assert!(!found.contains("cri-dockerd"), "{found}");
        let own = [parse_release("cri-dockerd=v0.3.20").expect("a release")];
        let found = urls("1.24.0", docker, &own);
        assert!(
            found.contains("/v0.3.20/cri-dockerd-0.3.20.arm64.tgz"),
            "{found}"
        );
    }

    #[test]
    fn releases_are_checked() {
        let minor = parse_kubernetes("1.34").expect("a minor release");
        assert_eq!(minor, Kubernetes::Minor(34));
        let exact = parse_kubernetes("v1.34.4").expect("a release");
        assert_eq!(exact, Kubernetes::Exact(Version::new(1, 34, 4)));
        for text in ["2.0.0", "1", "1.x", "latest", "1.19", "v1.19.16"] {
            assert!(parse_kubernetes(text).is_err(), "{text}");
        }
        for text in ["etcd=3.6.0", "runc", "runc=1.5"] {
            assert!(parse_release(text).is_err(), "{text}");
        }
    }
}
