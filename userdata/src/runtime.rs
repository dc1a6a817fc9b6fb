//! The container runtime of a node image: the one place that knows what differs by it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Decided by imagegen from the package, told to firstboot by the image file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// kubelet asks containerd.
    #[default]
    Containerd,
    /// kubelet has docker's client built in, up to Kubernetes 1.23.
    Dockershim,
    /// kubelet asks cri-dockerd, and that asks docker.
    CriDockerd,
}

impl Runtime {
    /// The path of the socket with the Container Runtime Interface, without a scheme.
    pub fn socket(self) -> &'static str {
        match self {
            Self::Containerd => "/run/containerd/containerd.sock",
            // kubeadm compares this text: it tells by it that kubelet needs docker's flags.
            Self::Dockershim => "/var/run/dockershim.sock",
            Self::CriDockerd => "/run/cri-dockerd.sock",
        }
    }

    /// The unit that kubelet needs; it brings those that it needs itself.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Containerd => "containerd.service",
            Self::Dockershim => "docker.service",
            Self::CriDockerd => "cri-docker.service",
        }
    }

    /// Whether the images are in docker's store and containers are docker's.
    pub fn is_docker(self) -> bool {
        self != Self::Containerd
    }
}

/// The name for people: `docker (dockershim)`.
impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Containerd => "containerd",
            Self::Dockershim => "docker (dockershim)",
            Self::CriDockerd => "docker (cri-dockerd)",
        })
    }
}
