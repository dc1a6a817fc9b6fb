//! The package's own etcd and kube-apiserver as processes of this host, for what a client says to them.
//!
//! In a network namespace whose loopback carries the masters' addresses, so that documents are used as imagegen makes
//! them: names, ports and certificates are those of real hosts, and nothing leaves the namespace. No machine, no kubelet.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use imagegen::cache::{Cache, Key};
use imagegen::package::images::ImageArchive;
use imagegen::progress::Progress;
use nix::sched::{CloneFlags, unshare};

use crate::artifacts::Programs;
use crate::host::NO_SKIP;
use crate::run::Run;
use crate::tools;

/// A server that was started has this long to answer: tens of times what it needs on a quiet host.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs `test` in a thread and a network namespace of its own, whose loopback has `addresses`. Where there may be none,
/// the reason is printed and the test skipped; `FIRSTLIGHT_NO_SKIP=1` makes that a failure.
pub fn in_namespace(
    addresses: &[IpAddr],
    test: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<()> {
    let addresses = addresses.to_vec();
    let thread = std::thread::spawn(move || match namespace(&addresses) {
        Ok(()) => test(),
        Err(error) if std::env::var_os(NO_SKIP).is_some_and(|value| value == "1") => {
            Err(error.context(format!("{NO_SKIP}=1 allows no skipping")))
        }
        Err(error) => {
            eprintln!("skipped: no network namespace: {error:#}");
            Ok(())
        }
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn namespace(addresses: &[IpAddr]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("leaving the host's network, which root may")?;
    let ip = |words: &str| tools::run(Command::new("ip").args(words.split_whitespace()));
    ip("link set lo up")?;
    for address in addresses {
        ip(&format!("address add {address} dev lo"))?;
    }
    Ok(())
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
        let package = imagegen::package::build::default_package(&cache, &Progress::stderr())?;
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
            userdata::cloudconfig::CloudConfig::parse("user-data", &fs::read(&path)?)?;
        for file in &config.value.files {
            let at = root.join(file.path.trim_start_matches('/'));
            fs::create_dir_all(at.parent().context("a file without a folder")?)?;
            fs::write(&at, file.content.expose())?;
        }
        Ok(root)
    }

    /// Starts etcd on `host`, at `address`, as kubeadm would; `cluster` is `--initial-cluster`, and `existing` whether
    /// it joins one. Its data is kept in the host's root.
    pub fn etcd(
        &self,
        host: &str,
        address: IpAddr,
        cluster: &str,
        existing: bool,
    ) -> Result<Server> {
        let root = self.root(host)?;
        let pki = root.join("etc/kubernetes/pki/etcd");
        let (clients, peers) = (
            format!("https://{address}:2379"),
            format!("https://{address}:2380"),
        );
        // etcd's image brings its libraries; the loader of it needs no root.
        let mut command = Command::new(self.etcd.join("usr/lib64/ld-linux-x86-64.so.2"));
        command
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
        self.start(&format!("etcd-{host}"), &command)
    }

    /// Forgets what etcd on `host` has stored.
    pub fn lose_etcd(&self, host: &str) -> Result<()> {
        fs::remove_dir_all(self.root(host)?.join("var/lib/etcd")).context("losing etcd's data")
    }

    /// Starts kube-apiserver on `host`, at `address` and port 6443, over the etcd there, with kubeadm's flags.
    pub fn apiserver(&self, host: &str, address: IpAddr) -> Result<Server> {
        let pki = self.root(host)?.join("etc/kubernetes/pki");
        let mut command = Command::new(self.apiserver.join("usr/local/bin/kube-apiserver"));
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
        self.start(&format!("apiserver-{host}"), &command)
    }

    fn start(&self, name: &str, command: &Command) -> Result<Server> {
        let log = self.folder.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        // The kernel ends it with us, even when we are killed.
        let mut bound = Command::new("setpriv");
        bound.args(["--pdeathsig", "KILL", "--"]);
        bound.arg(command.get_program()).args(command.get_args());
        let child = bound
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Server {
            name: name.to_owned(),
            child,
            log,
        })
    }
}

/// A process that ends with its value, at once and without a farewell.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Asks until there is an answer; an error where the server ends before, or none comes in time.
    pub fn wait<T>(&mut self, what: &str, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            let error = match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let state = ended.map_or("it runs".to_owned(), |status| status.to_string());
                bail!(
                    "{} does not {what} ({state}): {error:#}\n{}",
                    self.name,
                    tools::tail(&log, 12)
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The files of one of the package's images, all layers in one folder of the cache.
fn image(cache: &Cache, package: &Path, name: &str) -> Result<PathBuf> {
    let archive = package.join("images").join(format!("{name}.tar"));
    let key = Key::new("image-files", 1)
        .with("package", package.display().to_string())
        .with("image", name);
    cache.ensure("image-files", &key, |making| {
        fs::create_dir(making)?;
        let layer = making.join(".layer");
        for image in ImageArchive::open(&archive)?.images {
            for one in &image.layers {
                one.copy_to(&mut File::create(&layer)?)?;
                let mut tar = Command::new("tar");
                tools::run(tar.arg("-xf").arg(&layer).arg("-C").arg(making))?;
            }
        }
        fs::remove_file(&layer).context("removing a layer")
    })
}
