//! etcd and kube-apiserver of the package as processes of the host, for tests of their clients.
//!
//! Each control-plane host is a network namespace with the address that its documents name. So the
//! documents, ports and certificates are those of real hosts, and no packet leaves the namespaces.
//! There is no machine and no kubelet.

mod network;

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use build_tools::cache::{Cache, Key};
use build_tools::progress::Progress;
use firstboot::kube::client::Client;
use firstboot::system::files::{Attributes, Root};
use imagegen::package::images::ImageArchive;

use crate::host::artifacts::Programs;
use crate::host::process::{self, Server};
use crate::host::run_dir::{RunDir, target_dir};

pub use self::network::{HostNetwork, bound, in_network};

/// A topology of three control-plane hosts.
pub const THREE_HOSTS: &str = "\
apiVersion: firstlight/v1
kind: Cluster
name: three
hosts:
- { name: m0, role: master, address: 192.168.7.10/24, mac: \"52:54:00:00:07:10\" }
- { name: m1, role: master, address: 192.168.7.11/24, mac: \"52:54:00:00:07:11\" }
- { name: m2, role: master, address: 192.168.7.12/24, mac: \"52:54:00:00:07:12\" }
";

/// The hosts of [`THREE_HOSTS`].
pub const HOSTS: [(&str, Ipv4Addr); 3] = [
    ("m0", Ipv4Addr::new(192, 168, 7, 10)),
    ("m1", Ipv4Addr::new(192, 168, 7, 11)),
    ("m2", Ipv4Addr::new(192, 168, 7, 12)),
];

/// The documents of control-plane hosts, and the programs of their servers.
#[derive(Debug)]
pub struct ControlPlane {
    folder: PathBuf,
    etcd: PathBuf,
    apiserver: PathBuf,
    kubectl: PathBuf,
}

impl ControlPlane {
    /// Writes the documents of the topology text `topology` to the run's folder.
    pub fn new(run_dir: &RunDir, topology: &str) -> Result<Self> {
        let folder = run_dir.folder().to_owned();
        let file = folder.join("cluster.yaml");
        fs::write(&file, topology)?;
        let mut imagegen = Command::new(Programs::build_imagegen()?);
        imagegen.arg("userdata").arg("--topology").arg(&file);
        process::run(imagegen.arg("--output").arg(folder.join("imagegen")))?;
        let cache = Cache::open()?;
        let package = default_package::default_package(&cache, &Progress::stderr())?;
        Ok(Self {
            etcd: image(&cache, &package, "etcd")?,
            apiserver: image(&cache, &package, "kube-apiserver")?,
            kubectl: package.join("bin/kubectl"),
            folder,
        })
    }

    /// The package's kubectl.
    pub fn kubectl(&self) -> &Path {
        &self.kubectl
    }

    /// A folder that stands for the root of `host` and contains the files of its document.
    pub fn root(&self, host: &str) -> Result<PathBuf> {
        let root = self.folder.join(host);
        if !root.exists() {
            self.take_document(host)?;
        }
        Ok(root)
    }

    /// Writes the files of the newest document of `host`, as firstboot does.
    pub fn take_document(&self, host: &str) -> Result<()> {
        let root = Root::new(self.folder.join(host));
        let documents = self.folder.join("imagegen/hosts");
        let bytes = fs::read(documents.join(host).join("user-data"))?;
        let (config, _) = userdata::cloud_config::CloudConfig::parse("user-data", &bytes)?;
        for file in &config.value.files {
            let bytes = file.content.expose();
            root.write(&file.path, bytes, Attributes::mode(file.mode))?;
        }
        Ok(())
    }

    /// Runs `imagegen pki rotate`.
    pub fn rotate(&self, arguments: &[&str]) -> Result<()> {
        let mut imagegen = Command::new(target_dir().join("debug/imagegen"));
        imagegen.args(["pki", "rotate", "--topology", "cluster.yaml"]);
        imagegen.args(["--output", "imagegen"]).args(arguments);
        process::run(imagegen.current_dir(&self.folder)).map(drop)
    }

    /// Starts etcd on `host` with kubeadm's flags. `cluster` is `--initial-cluster`, and `existing`
    /// selects `--initial-cluster-state=existing`. The data stays in the host's root.
    pub fn etcd(
        &self,
        network: &HostNetwork,
        host: &str,
        cluster: &str,
        existing: bool,
    ) -> Result<Server> {
        let root = self.root(host)?;
        let address = network.host(host)?.address;
        let pki = root.join("etc/kubernetes/pki/etcd");
        let (clients, peers) = (
            format!("https://{address}:2379"),
            format!("https://{address}:2380"),
        );
        let mut command = network.host(host)?.inside();
        command.arg(self.etcd.join("usr/local/bin/etcd"));
        let state = if existing { "existing" } else { "new" };
        let data = root.join("var/lib/etcd").display().to_string();
        let flags: [(&str, &str); 12] = [
            ("name", host),
            ("data-dir", &data),
            ("listen-client-urls", &clients),
            ("advertise-client-urls", &clients),
            ("listen-peer-urls", &peers),
            ("initial-advertise-peer-urls", &peers),
            ("initial-cluster", cluster),
            ("initial-cluster-state", state),
            ("client-cert-auth", "true"),
            ("peer-client-cert-auth", "true"),
            // kubeadm's defaults are too short for a slow disk that other processes use too.
            ("heartbeat-interval", "250"),
            ("election-timeout", "2500"),
        ];
        command.args(flags.map(|(name, value)| format!("--{name}={value}")));
        for (flag, file) in [
            ("cert-file", "server.crt"),
            ("key-file", "server.key"),
            ("trusted-ca-file", "ca.crt"),
            ("peer-cert-file", "peer.crt"),
            ("peer-key-file", "peer.key"),
            ("peer-trusted-ca-file", "ca.crt"),
        ] {
            command.arg(format!("--{flag}={}", pki.join(file).display()));
        }
        self.start(&format!("etcd-{host}"), &mut command)
    }

    /// Deletes the data of etcd on `host`.
    pub fn lose_etcd(&self, host: &str) -> Result<()> {
        fs::remove_dir_all(self.root(host)?.join("var/lib/etcd")).context("deleting etcd's data")
    }

    /// Starts kube-apiserver on `host` at port 6443 with kubeadm's flags, over the host's etcd.
    pub fn apiserver(&self, network: &HostNetwork, host: &str) -> Result<Server> {
        let pki = self.root(host)?.join("etc/kubernetes/pki");
        // From the first rotation on.
        let clients = ["clients-ca.crt", "ca.crt"];
        let clients = clients.into_iter().find(|name| pki.join(name).exists());
        let address = network.host(host)?.address;
        let mut command = network.host(host)?.inside();
        command.arg(self.apiserver.join("usr/local/bin/kube-apiserver"));
        command.args([
            "--secure-port=6443",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
            "--requestheader-allowed-names=front-proxy-client",
            "--shutdown-delay-duration=8s",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        ]);
        command.arg(format!("--advertise-address={address}"));
        command.arg(format!("--etcd-servers=https://{address}:2379"));
        for (flag, file) in [
            ("client-ca-file", clients.unwrap_or_default()),
            ("tls-cert-file", "apiserver.crt"),
            ("tls-private-key-file", "apiserver.key"),
            ("etcd-cafile", "etcd/ca.crt"),
            ("etcd-certfile", "apiserver-etcd-client.crt"),
            ("etcd-keyfile", "apiserver-etcd-client.key"),
            // firstboot's, see `firstboot/tests/kubeadm_config.rs`.
            ("kubelet-certificate-authority", "ca.crt"),
            ("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
            ("kubelet-client-key", "apiserver-kubelet-client.key"),
            ("proxy-client-cert-file", "front-proxy-client.crt"),
            ("proxy-client-key-file", "front-proxy-client.key"),
            ("requestheader-client-ca-file", "front-proxy-ca.crt"),
            ("service-account-key-file", "sa.pub"),
            ("service-account-signing-key-file", "sa.key"),
        ] {
            command.arg(format!("--{flag}={}", pki.join(file).display()));
        }
        self.start(&format!("apiserver-{host}"), &mut command)
    }

    /// The program of the package's image `name`, on `host`.
    pub fn program(&self, network: &HostNetwork, host: &str, name: &str) -> Result<Command> {
        let cache = Cache::open()?;
        let package = default_package::default_package(&cache, &Progress::stderr())?;
        let mut command = network.host(host)?.inside();
        command.arg(
            image(&cache, &package, name)?
                .join("usr/local/bin")
                .join(name),
        );
        Ok(command)
    }

    /// Starts `command` as a server that logs to the run's folder.
    pub fn start(&self, name: &str, command: &mut Command) -> Result<Server> {
        let log = self.folder.join(format!("{name}.log"));
        Server::start(name, log, command)
    }
}

pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 10);
pub const ENDPOINT: &str = "192.168.7.10:6443";
/// The path of the administrator's kubeconfig in the root of the host.
pub const ADMIN: &str = "/etc/kubernetes/admin.conf";

const ONE_HOST: &str = "\
apiVersion: firstlight/v1
kind: Cluster
name: one
hosts:
- { name: m0, role: master, address: 192.168.7.10/24, mac: \"52:54:00:00:07:10\" }
";

/// Runs `test` with a ready kube-apiserver: its arguments are the root of the control-plane host,
/// and etcd and kube-apiserver. Skips as [`in_network`] does.
pub fn with_apiserver(
    run_dir: &RunDir,
    test: impl FnOnce(&Root, [&Server; 2]) -> Result<()> + Send,
) -> Result<()> {
    let control_plane = ControlPlane::new(run_dir, ONE_HOST)?;
    in_network(&[("m0", ADDRESS)], |network| {
        let cluster = format!("m0=https://{ADDRESS}:2380");
        let etcd = control_plane.etcd(network, "m0", &cluster, false)?;
        let mut apiserver = control_plane.apiserver(network, "m0")?;
        let root = Root::new(control_plane.root("m0")?);
        apiserver.wait("become ready", || {
            let client = Client::from_kubeconfig(&root, ADMIN, ENDPOINT)?;
            client.get("/readyz")?.ok()
        })?;
        test(&root, [&etcd, &apiserver])
    })
}

/// The files of an image of the package, unpacked to a folder of the cache.
fn image(cache: &Cache, package: &Path, name: &str) -> Result<PathBuf> {
    let archive = package.join("images").join(format!("{name}.tar"));
    let key = Key::new("image-files", 1)
        .with("package", package.display().to_string())
        .with("image", name);
    cache.ensure("image-files", &key, |making| unpack(&archive, making))
}

/// Unpacks the layers of all images of `archive` to the new folder `root`.
pub fn unpack(archive: &Path, root: &Path) -> Result<()> {
    fs::create_dir(root).with_context(|| format!("creating `{}`", root.display()))?;
    let layer = root.join(".layer");
    for image in ImageArchive::open(archive)?.images {
        for one in &image.layers {
            one.copy_to(&mut File::create(&layer)?)?;
            let mut tar = Command::new("tar");
            process::run(tar.arg("-xf").arg(&layer).arg("-C").arg(root))?;
        }
    }
    fs::remove_file(&layer).context("removing a layer")
}
