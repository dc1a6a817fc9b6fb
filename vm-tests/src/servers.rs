//! The package's own etcd and kube-apiserver as processes of this host, for what a client says to them.
//!
//! In network namespaces that have the masters' addresses, so that documents are used as imagegen makes them: names, ports
//! and certificates are those of real hosts, and nothing leaves the namespaces. No machine, no kubelet.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use build_tools::cache::{Cache, Key};
use build_tools::progress::Progress;
use imagegen::package::images::ImageArchive;
use nix::sched::{CloneFlags, unshare};

use crate::artifacts::Programs;
use crate::host::NO_SKIP;
use crate::run::Run;
use crate::server::{PATIENCE, Server, end};
use crate::tools;

/// A topology of three masters.
pub const THREE_MASTERS: &str = "\
apiVersion: firstlight/v1
kind: Cluster
name: three
hosts:
- { name: m0, role: master, address: 192.168.7.10/24, mac: \"52:54:00:00:07:10\" }
- { name: m1, role: master, address: 192.168.7.11/24, mac: \"52:54:00:00:07:11\" }
- { name: m2, role: master, address: 192.168.7.12/24, mac: \"52:54:00:00:07:12\" }
";

/// Its hosts.
pub const MASTERS: [(&str, Ipv4Addr); 3] = [
    ("m0", Ipv4Addr::new(192, 168, 7, 10)),
    ("m1", Ipv4Addr::new(192, 168, 7, 11)),
    ("m2", Ipv4Addr::new(192, 168, 7, 12)),
];

/// Runs `test` in a network namespace of its own, on a bridge to which a namespace for each of `hosts` (name, address in
/// a /24) is joined. Where there may be none, the reason is printed and the test skipped; `FIRSTLIGHT_NO_SKIP=1` makes
/// that a failure.
pub fn in_network(
    hosts: &[(&str, Ipv4Addr)],
    test: impl FnOnce(&Network) -> Result<()> + Send,
) -> Result<()> {
    let run = || match Network::new(hosts) {
        Ok(network) => test(&network),
        Err(error) if std::env::var_os(NO_SKIP).is_some_and(|value| value == "1") => {
            Err(error.context(format!("{NO_SKIP}=1 allows no skipping")))
        }
        Err(error) => {
            eprintln!("skipped: no network of our own: {error:#}");
            Ok(())
        }
    };
    // A thread that leaves the host's network does not come back to it.
    match std::thread::scope(|scope| scope.spawn(run).join()) {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Hosts on one bridge, each a network namespace: one for all would not do, because etcd compares where its peers come
/// from with their certificates.
#[derive(Debug)]
pub struct Network {
    hosts: BTreeMap<String, Holder>,
}

/// Keeps a network namespace by being in it.
#[derive(Debug)]
struct Holder {
    process: Child,
    address: Ipv4Addr,
}

impl Drop for Holder {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

impl Network {
    /// Moves this thread onto the bridge.
    fn new(hosts: &[(&str, Ipv4Addr)]) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("leaving the host's network, which root may")?;
        ip("link add name bridge0 type bridge")?;
        ip("link set lo up")?;
        ip("link set bridge0 up")?;
        let mut network = Self {
            hosts: BTreeMap::new(),
        };
        for (name, address) in hosts {
            let mut unshare = bound();
            unshare.args(["unshare", "--net", "sleep", "infinity"]);
            let process = unshare.spawn().context("starting a namespace")?;
            let holder = Holder {
                process,
                address: *address,
            };
            holder.wait()?;
            let pid = holder.process.id();
            ip(&format!(
                "link add name {name} type veth peer name eth0 netns {pid}"
            ))?;
            ip(&format!("link set {name} master bridge0 up"))?;
            for words in [
                "link set lo up".to_owned(),
                format!("address add {address}/24 dev eth0"),
                "link set eth0 up".to_owned(),
            ] {
                let mut inside = holder.inside();
                tools::run(inside.arg("ip").args(words.split_whitespace()))?;
            }
            network.hosts.insert((*name).to_owned(), holder);
        }
        // Whoever asks the hosts is none of them.
        let [net, subnet, part, _] = hosts.first().map_or([10, 0, 0, 1], |(_, a)| a.octets());
        ip(&format!(
            "address add {net}.{subnet}.{part}.254/24 dev bridge0"
        ))?;
        Ok(network)
    }

    fn host(&self, name: &str) -> Result<&Holder> {
        self.hosts
            .get(name)
            .with_context(|| format!("there is no host `{name}` in this network"))
    }
}

impl Holder {
    /// Until it has left our namespace for one of its own.
    fn wait(&self) -> Result<()> {
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
        let (ours, end) = (namespace("thread-self")?, Instant::now() + PATIENCE);
        while namespace(&self.process.id().to_string())? == ours {
            if Instant::now() > end {
                bail!("unshare made no network namespace");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The beginning of a command on this host.
    fn inside(&self) -> Command {
        let mut command = bound();
        command.arg("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.process.id()));
        command
    }
}

/// The beginning of a command that the kernel ends with us, even when we are killed.
pub fn bound() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).stdin(Stdio::null());
    command
}

fn ip(words: &str) -> Result<()> {
    tools::run(Command::new("ip").args(words.split_whitespace())).map(drop)
}

/// A cluster's documents as its masters have them, and the servers' programs.
#[derive(Debug)]
pub struct Site {
    folder: PathBuf,
    etcd: PathBuf,
    apiserver: PathBuf,
}

impl Site {
    /// Makes the documents of `topology` (its text) in the run's folder.
    pub fn new(run: &Run, topology: &str) -> Result<Self> {
        let folder = run.folder().to_owned();
        let file = folder.join("cluster.yaml");
        fs::write(&file, topology)?;
        let mut imagegen = Command::new(Programs::build_imagegen()?);
        imagegen.arg("userdata").arg("--topology").arg(&file);
        tools::run(imagegen.arg("--output").arg(folder.join("made")))?;
        let cache = Cache::open()?;
        let package = default_package::default_package(&cache, &Progress::stderr())?;
        Ok(Self {
            etcd: image(&cache, &package, "etcd")?,
            apiserver: image(&cache, &package, "kube-apiserver")?,
            folder,
        })
    }

    /// The files that the document brings to `host`, below a folder that stands for its root.
    pub fn root(&self, host: &str) -> Result<PathBuf> {
        let root = self.folder.join(host);
        if root.exists() {
            return Ok(root);
        }
        let path = self.folder.join("made/hosts").join(host).join("user-data");
        let (config, _) =
            userdata::cloud_config::CloudConfig::parse("user-data", &fs::read(&path)?)?;
        for file in &config.value.files {
            let at = root.join(file.path.trim_start_matches('/'));
            fs::create_dir_all(at.parent().context("a file without a folder")?)?;
            fs::write(&at, file.content.expose())?;
        }
        Ok(root)
    }

    /// Starts etcd on `host` as kubeadm would; `cluster` is `--initial-cluster`, and `existing` whether it joins one.
    /// Its data is kept in the host's root.
    pub fn etcd(
        &self,
        network: &Network,
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
        // etcd's image brings its libraries, and the loader for them.
        let mut command = network.host(host)?.inside();
        command
            .arg(self.etcd.join("usr/lib64/ld-linux-x86-64.so.2"))
            .arg("--library-path")
            .arg(self.etcd.join("usr/lib/x86_64-linux-gnu"))
            .arg(self.etcd.join("usr/local/bin/etcd"));
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
            // This host is shared, and its disk with it.
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

    /// Forgets what etcd on `host` has stored.
    pub fn lose_etcd(&self, host: &str) -> Result<()> {
        fs::remove_dir_all(self.root(host)?.join("var/lib/etcd")).context("losing etcd's data")
    }

    /// Starts kube-apiserver on `host`, at port 6443, over the etcd there, with kubeadm's flags.
    pub fn apiserver(&self, network: &Network, host: &str) -> Result<Server> {
        let pki = self.root(host)?.join("etc/kubernetes/pki");
        let address = network.host(host)?.address;
        let mut command = network.host(host)?.inside();
        command.arg(self.apiserver.join("usr/local/bin/kube-apiserver"));
        command.args([
            "--secure-port=6443",
            "--insecure-port=0",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        ]);
        command.arg(format!("--advertise-address={address}"));
        command.arg(format!("--etcd-servers=https://{address}:2379"));
        for (flag, file) in [
            ("client-ca-file", "ca.crt"),
            ("tls-cert-file", "apiserver.crt"),
            ("tls-private-key-file", "apiserver.key"),
            ("etcd-cafile", "etcd/ca.crt"),
            ("etcd-certfile", "apiserver-etcd-client.crt"),
            ("etcd-keyfile", "apiserver-etcd-client.key"),
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

    /// Starts a command as a server; its log is in the run's folder.
    pub fn start(&self, name: &str, command: &mut Command) -> Result<Server> {
        let log = self.folder.join(format!("{name}.log"));
        Server::start(name, log, command)
    }
}

/// The files of one of the package's images, all layers in one folder of the cache.
fn image(cache: &Cache, package: &Path, name: &str) -> Result<PathBuf> {
    let archive = package.join("images").join(format!("{name}.tar"));
    let key = Key::new("image-files", 1)
        .with("package", package.display().to_string())
        .with("image", name);
    cache.ensure("image-files", &key, |making| unpack(&archive, making))
}

/// Makes the folder `root` with the files of all images in an archive of a package, layer upon layer.
pub fn unpack(archive: &Path, root: &Path) -> Result<()> {
    fs::create_dir(root).with_context(|| format!("creating `{}`", root.display()))?;
    let layer = root.join(".layer");
    for image in ImageArchive::open(archive)?.images {
        for one in &image.layers {
            one.copy_to(&mut File::create(&layer)?)?;
            let mut tar = Command::new("tar");
            tools::run(tar.arg("-xf").arg(&layer).arg("-C").arg(root))?;
        }
    }
    fs::remove_file(&layer).context("removing a layer")
}
