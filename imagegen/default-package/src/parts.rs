//! The built parts of one release's package, wherever they come from.

use std::path::{Path, PathBuf};

use anyhow::Result;
use build_tools::cache::Cache;
use build_tools::debian_tree::Tree;
use build_tools::process::side_by_side;
use build_tools::progress::Progress;

use crate::debian_kubernetes;
use crate::modules::{self, Builder, Built, Module};
use crate::release::{Release, Source};
use crate::{runtime, versions};

/// Everything that [`assemble`](crate::assemble) puts together.
#[derive(Debug)]
pub(super) struct Parts {
    /// Kubernetes' version without a leading `v`.
    pub(super) version: String,
    /// What Kubernetes was built from, for people.
    pub(super) source: String,
    /// Debian's tree of the runtime's programs and of kube-proxy's base.
    pub(super) tree: Tree,
    pub(super) crictl: Built,
    pub(super) cni_plugins: Built,
    pub(super) flannel_cni: Built,
    pub(super) flannel: Built,
    pub(super) containerd: Containerd,
    pub(super) etcd: Etcd,
    /// Absent from 1.20: CoreDNS of today needs an API that 1.20 does not serve.
    pub(super) coredns: Option<Built>,
    kubernetes: PathBuf,
    pause: PathBuf,
    identity: String,
}

/// Where containerd, its shim and ctr come from.
#[derive(Debug)]
pub(super) enum Containerd {
    /// Debian's tree, 1.7.
    Debian,
    /// 2.x.
    Module(Built),
}

#[derive(Debug)]
pub(super) enum Etcd {
    /// Debian's tree; programs that load libraries.
    Debian,
    Module(Built, &'static Module),
}

impl Parts {
    pub(super) fn ensure(release: &Release, cache: &Cache, progress: &Progress) -> Result<Self> {
        // One waits for a mirror while the other has the processors.
        let (built, tree) = side_by_side(
            || Programs::ensure(release, cache, progress),
            || Tree::ensure(cache, &runtime::tree(release), progress),
        );
        let (built, tree) = (built?, tree?);
        let identity = format!("{} {}", built.identity, crate::identity(tree.path()));
        Ok(Self {
            version: built.version,
            source: built.source,
            tree,
            crictl: built.crictl,
            cni_plugins: built.cni_plugins,
            flannel_cni: built.flannel_cni,
            flannel: built.flannel,
            containerd: built.containerd,
            etcd: built.etcd,
            coredns: built.coredns,
            kubernetes: built.kubernetes,
            pause: built.pause,
            identity,
        })
    }

    /// One of Kubernetes' own programs.
    pub(super) fn kubernetes(&self, program: &str) -> PathBuf {
        self.kubernetes.join(program)
    }

    pub(super) fn pause(&self) -> &Path {
        &self.pause
    }

    /// The tag of etcd's image, as Kubernetes tags its own: upstream's version and a build number.
    pub(super) fn etcd_tag(&self) -> Result<String> {
        Ok(match &self.etcd {
            Etcd::Debian => {
                versions::upstream(&versions::of_package(self.tree.path(), "etcd-server")?) + "-0"
            }
            Etcd::Module(_, module) => format!("{}-0", module.version),
        })
    }

    /// For keys: names all that the package is made of.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }
}

/// What is compiled.
struct Programs {
    version: String,
    source: String,
    crictl: Built,
    cni_plugins: Built,
    flannel_cni: Built,
    flannel: Built,
    containerd: Containerd,
    etcd: Etcd,
    coredns: Option<Built>,
    kubernetes: PathBuf,
    pause: PathBuf,
    identity: String,
}

impl Programs {
    fn ensure(release: &Release, cache: &Cache, progress: &Progress) -> Result<Self> {
        let builder = Builder::new(cache, progress)?;
        let mut identity = Vec::new();
        let mut build = |module: &Module| -> Result<Built> {
            let built = builder.build(module)?;
            identity.push(built.identity());
            Ok(built)
        };
        let crictl = build(&modules::CRICTL)?;
        let cni_plugins = build(&modules::CNI_PLUGINS)?;
        let flannel_cni = build(&modules::FLANNEL_CNI)?;
        let flannel = build(&modules::FLANNEL)?;
        match release.source {
            Source::Modules { kubernetes, etcd } => {
                let programs = build(kubernetes)?;
                Ok(Self {
                    version: kubernetes.version.to_owned(),
                    source: format!("Go module k8s.io/kubernetes v{}", kubernetes.version),
                    containerd: Containerd::Module(build(&modules::CONTAINERD)?),
                    etcd: Etcd::Module(build(etcd)?, etcd),
                    coredns: Some(build(&modules::COREDNS)?),
                    kubernetes: programs.folder().to_owned(),
                    pause: programs.file("pause"),
                    crictl,
                    cni_plugins,
                    flannel_cni,
                    flannel,
                    identity: identity.join(" "),
                })
            }
            Source::Debian => {
                let programs = debian_kubernetes::Programs::ensure(cache, progress)?;
                identity.push(programs.identity());
                Ok(Self {
                    version: programs.version.clone(),
                    source: format!("Debian source {}", programs.source),
                    containerd: Containerd::Debian,
                    etcd: Etcd::Debian,
                    coredns: None,
                    kubernetes: programs.kubernetes().to_owned(),
                    pause: programs.pause(),
                    crictl,
                    cni_plugins,
                    flannel_cni,
                    flannel,
                    identity: identity.join(" "),
                })
            }
        }
    }
}
