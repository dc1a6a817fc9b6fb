//! Both servers with a whole release of upstream, and imagegen's command line for them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use super::registry::{Registry, USER, sha256};
use super::server::{Certificates, Server};
use crate::package::{self, elf};
use crate::work::Work;

pub(super) const RELEASE: &str = "release/v1.34.4/bin/linux/amd64";
/// Long enough to be cut.
pub(super) const KUBELET_SIZE: usize = 600_000;

const IMAGES: [&str; 7] = [
    "registry.k8s.io/kube-apiserver:v1.34.4",
    "registry.k8s.io/kube-controller-manager:v1.34.4",
    "registry.k8s.io/kube-scheduler:v1.34.4",
    "registry.k8s.io/kube-proxy:v1.34.4",
    "registry.k8s.io/coredns/coredns:v1.12.1",
    "registry.k8s.io/pause:3.10.1",
    "registry.k8s.io/etcd:3.6.5-0",
];
pub(super) const FLANNEL: &str = "ghcr.io/flannel-io/flannel:v0.28.10";
const MANIFEST: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: kube-flannel}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kube-flannel-ds, namespace: kube-flannel}
spec:
  selector: {matchLabels: {app: flannel}}
  template:
    metadata: {labels: {app: flannel}}
    spec:
      containers:
      - {name: kube-flannel, image: 'ghcr.io/flannel-io/flannel:v0.28.10'}
";

pub(super) struct Site {
    pub(super) work: Work,
    pub(super) server: Server,
    pub(super) registry: Registry,
}

impl Site {
    pub(super) fn new() -> Self {
        let site = Self::without_credentials();
        site.login(USER);
        site
    }

    pub(super) fn without_credentials() -> Self {
        let certificates = Certificates::new();
        let work = Work::new();
        fs::write(work.path("ca.pem"), &certificates.authority).expect("writing");
        let server = Server::start(&certificates);
        let registry = Registry::start(&work.path("registry"), &certificates);
        let site = Self {
            work,
            server,
            registry,
        };
        site.publish();
        for image in IMAGES.into_iter().chain([FLANNEL]) {
            site.registry.push(image);
        }
        site
    }

    /// Writes docker's configuration with a name and a password.
    pub(super) fn login(&self, pair: &str) {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(pair);
        let host = self.registry.name();
        let config = serde_json::json!({"auths": {host: {"auth": auth}}});
        fs::create_dir_all(self.work.path("home/.docker")).expect("a folder");
        let file = self.work.path("home/.docker/config.json");
        fs::write(file, config.to_string()).expect("writing");
    }

    /// Puts a file and its checksum on the server.
    fn put(&self, path: &str, bytes: &[u8], suffix: &str) {
        self.server.put(path, bytes);
        let name = path.rsplit('/').next().expect("a name");
        let line = format!("{}  {name}\n", sha256(bytes));
        self.server.put(&format!("{path}{suffix}"), line.as_bytes());
    }

    fn publish(&self) {
        let kubeadm = format!("#!/bin/sh\ncat <<END\n{}\nEND\n", IMAGES.join("\n"));
        let mut kubelet = elf(62);
        kubelet.extend((64..KUBELET_SIZE).map(|at| (at % 251) as u8));
        for (name, bytes) in [
            ("kubeadm", kubeadm.as_bytes()),
            ("kubelet", kubelet.as_slice()),
            ("kubectl", elf(62).as_slice()),
        ] {
            for release in [RELEASE, "release/v1.34.4/bin/linux/arm64"] {
                let path = format!("dl.k8s.io/{release}/{name}");
                self.server.put(&path, bytes);
                // No name and no end of line, as there.
                let digest = sha256(bytes);
                self.server
                    .put(&format!("{path}.sha256"), digest.as_bytes());
            }
        }
        self.server
            .put("dl.k8s.io/release/stable-1.34.txt", b"v1.34.4");
        let github = |rest: &str| format!("github.com/{rest}");
        for arch in ["amd64", "arm64"] {
            let containerd = ["bin/containerd", "bin/containerd-shim-runc-v2", "bin/ctr"];
            let path = format!(
                "containerd/containerd/releases/download/v2.4.2/\
                 containerd-2.4.2-linux-{arch}.tar.gz"
            );
            self.put(&github(&path), &packed(&containerd), ".sha256sum");
            let path = format!("opencontainers/runc/releases/download/v1.5.3/runc.{arch}");
            self.server.put(&github(&path), &elf(62));
            let plugins = ["./bridge", "./host-local", "./loopback", "./portmap"];
            let path = format!(
                "containernetworking/plugins/releases/download/v1.10.0/\
                 cni-plugins-linux-{arch}-v1.10.0.tgz"
            );
            self.put(&github(&path), &packed(&plugins), ".sha256");
            let path = format!(
                "kubernetes-sigs/cri-tools/releases/download/v1.37.0/\
                 crictl-v1.37.0-linux-{arch}.tar.gz"
            );
            self.put(&github(&path), &packed(&["crictl"]), ".sha256");
        }
        let digest = sha256(&elf(62));
        let sums = format!("{digest}  runc.amd64\n{digest}  runc.arm64\n");
        let path = github("opencontainers/runc/releases/download/v1.5.3/runc.sha256sum");
        self.server.put(&path, sums.as_bytes());
        let path = github("flannel-io/flannel/releases/download/v0.28.10/kube-flannel.yml");
        self.server.put(&path, MANIFEST.as_bytes());
        let docker: Vec<_> = [
            "dockerd",
            "docker",
            "docker-init",
            "docker-proxy",
            "containerd",
        ]
        .into_iter()
        .chain(["containerd-shim-runc-v2", "ctr", "runc"])
        .map(|name| format!("docker/{name}"))
        .collect();
        let docker: Vec<&str> = docker.iter().map(String::as_str).collect();
        let path = "download.docker.com/linux/static/stable/x86_64/docker-28.5.2.tgz";
        self.server.put(path, &packed(&docker));
        let path = "Mirantis/cri-dockerd/releases/download/v0.4.3/cri-dockerd-0.4.3.amd64.tgz";
        self.server
            .put(&github(path), &packed(&["cri-dockerd/cri-dockerd"]));
    }

    /// `imagegen package upstream` to the folder `kube`.
    pub(super) fn run(&self, more: &[&str]) -> Output {
        let mut command = self.command();
        command.args(["--ca", "ca.pem", "-o", "kube"]);
        command.args(["--mirror", &self.server.url("")]);
        command.args(["--registry", &self.registry.name()]);
        if !more.contains(&"--kubernetes") {
            command.args(["--kubernetes", "v1.34.4"]);
        }
        command.args(more).output().expect("running imagegen")
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("imagegen"));
        for name in [
            "DOCKER_CONFIG",
            "REGISTRY_AUTH_FILE",
            "XDG_RUNTIME_DIR",
            "SSL_CERT_FILE",
        ] {
            command.env_remove(name);
        }
        command
            .current_dir(self.work.path(""))
            .env("FIRSTLIGHT_CACHE", self.work.path("cache"))
            .env("HOME", self.work.path("home"))
            .args(["package", "upstream"]);
        command
    }
}

/// A gzip archive of programs for amd64.
fn packed(names: &[&str]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed
        .write_all(&package::runtime(names))
        .expect("in memory");
    packed.finish().expect("in memory")
}

/// Whether a file can be run.
pub(super) fn is_program(work: &Work, name: &str) -> bool {
    let meta = fs::metadata(work.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    meta.permissions().mode() & 0o111 == 0o111
}

/// The SHA-256 of a file of the package.
pub(super) fn digest_of(site: &Site, name: &str) -> String {
    let path = site.work.path(&format!("kube/{name}"));
    sha256(&fs::read(path).expect("a file of the package"))
}
