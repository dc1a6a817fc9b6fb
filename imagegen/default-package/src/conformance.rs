//! Kubernetes' own conformance tests: `e2e.test`, and the images that its tests start.
//!
//! Upstream's images come from a registry, which an air-gapped cluster and this project do not use.
//! These have upstream's names and hold the same programs: those of Kubernetes are built from the
//! same module, all others are Debian's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use build_tools::cache::{Cache, Key};
use build_tools::debian_tree::{Spec, Tree};
use build_tools::process;
use build_tools::progress::Progress;

use crate::container::{self, Image, LayerFile};
use crate::modules::{self, Builder, Built};
use crate::runtime;
use crate::tarball::Item;

/// Where upstream's test images are.
const REPOSITORY: &str = "registry.k8s.io/e2e-test-images";

/// The release whose tests these are, as `imagegen package --kubernetes` takes it.
pub const RELEASE: &str = "1.37";

/// Documentation and translations, which no test reads.
const LEFT_OUT: &[&str] = &["usr/share/doc", "usr/share/man", "usr/share/locale"];

/// The program and the images.
#[derive(Debug)]
pub struct Conformance {
    /// Upstream's `e2e.test`, a static program.
    pub e2e_test: PathBuf,
    /// A package: the default one with the images of the tests.
    pub package: PathBuf,
}

impl Conformance {
    /// Builds both, or takes them from the cache. The tests take 20 minutes of two cores.
    pub fn ensure(cache: &Cache, progress: &Progress) -> Result<Self> {
        let builder = Builder::new(cache, progress)?;
        let programs = builder.build(&modules::CONFORMANCE)?;
        let coredns = builder.build(&modules::COREDNS)?;
        let etcd = builder.build(&modules::ETCD_3_7)?;
        let tree = Tree::ensure(cache, &tree(), progress)?;
        let base = crate::package_of(RELEASE, cache, progress)?;
        let key = Key::new("conformance", 1)
            .with("package", crate::identity(&base))
            .with("programs", programs.identity())
            .with("coredns", coredns.identity())
            .with("etcd", etcd.identity())
            .with("tree", crate::identity(tree.path()))
            .with("code", include_str!("conformance.rs"))
            .with("container", include_str!("container.rs"));
        let package = cache.ensure("packages", &key, |making| {
            let stage = progress.stage("images of the conformance tests");
            copy(&base, making)?;
            let sources = Sources {
                programs: &programs,
                coredns: &coredns,
                etcd: &etcd,
                tree: tree.path(),
            };
            sources.write(&making.join("images"))?;
            stage.done();
            Ok(())
        })?;
        Ok(Self {
            e2e_test: programs.file("e2e.test"),
            package,
        })
    }
}

/// The programs that tests call in their containers. Only extracted.
fn tree() -> Spec {
    let packages = [
        "base-files",
        "bash",
        "bind9-dnsutils",
        "busybox-static",
        "ca-certificates",
        "coreutils",
        "curl",
        "findutils",
        "grep",
        "hostname",
        "iperf",
        "iproute2",
        "iputils-ping",
        "mawk",
        "mount",
        "netbase",
        "netcat-openbsd",
        "nginx-light",
        "perl-base",
        "procps",
        "sed",
        "socat",
        "util-linux",
        "wget",
    ];
    Spec::new(
        "the conformance tests' images",
        "trixie",
        "extract",
        &packages,
    )
}

/// Hard links where they are possible: nothing writes to a package.
fn copy(package: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    cp.args(["--recursive", "--link"]).arg(package).arg(to);
    process::run(&mut cp)
}

struct Sources<'a> {
    programs: &'a Built,
    coredns: &'a Built,
    etcd: &'a Built,
    tree: &'a Path,
}

impl Sources<'_> {
    fn write(&self, folder: &Path) -> Result<()> {
        let scratch = tempfile::tempdir_in(folder).context("creating a temporary folder")?;
        let layer = |name: &str, items: &BTreeMap<String, Item>| {
            container::layer(&scratch.path().join(name), items)
                .with_context(|| format!("making the layer `{name}`"))
        };
        let base = layer("debian", &self.debian()?)?;
        let agnhost = layer("agnhost", &self.agnhost())?;
        let write = |name: &str, tag: &str, layers: &[&LayerFile], settings: Settings<'_>| {
            let reference = match name.split_once('/') {
                Some(_) => format!("{name}:{tag}"),
                None => format!("{REPOSITORY}/{name}:{tag}"),
            };
            let file = format!("conformance-{}-{tag}.tar", name.replace('/', "-"));
            let layers: Vec<_> = layers.iter().map(|&layer| layer.clone()).collect();
            let image = Image {
                reference: &reference,
                layers: &layers,
                entrypoint: settings.entrypoint,
                command: settings.command,
                user: settings.user,
            };
            container::write(&folder.join(file), &image)
        };
        let pause = Settings {
            entrypoint: &["/agnhost"],
            command: &["pause"],
            user: "",
        };
        for tag in ["2.55", "2.66.1"] {
            write("agnhost", tag, &[&base, &agnhost], pause)?;
        }
        let serve = Settings {
            command: &["test-webserver"],
            ..pause
        };
        for name in ["kitten", "nautilus"] {
            let own = layer(name, &self.picture(name))?;
            write(name, "1.8", &[&base, &agnhost, &own], serve)?;
        }
        let shell = Settings {
            command: &["sh"],
            ..Settings::default()
        };
        let busybox = layer("busybox", &self.busybox()?)?;
        write("busybox", "1.37.0-2", &[&busybox], shell)?;
        let user = Settings {
            user: "1234",
            ..shell
        };
        write("nonroot", "1.5", &[&busybox], user)?;
        write("perl", "5.26", &[&base], shell)?;
        let nnp = layer("nnp", &self.with_set_user_id())?;
        let command = Settings {
            command: &["nnp"],
            ..Settings::default()
        };
        write("nonewprivs", "1.4", &[&base, &nnp], command)?;
        let nginx = layer("nginx", &nginx())?;
        let command = Settings {
            command: &["nginx", "-g", "daemon off;"],
            ..Settings::default()
        };
        for tag in ["1.27.0-2", "1.28.0-2"] {
            // Two images, which a rollout can tell apart.
            let own = layer(&format!("nginx-{tag}"), &marker(tag))?;
            write("nginx", tag, &[&base, &nginx, &own], command)?;
        }
        for (name, tag) in [
            ("regression-issue-74839", "1.5"),
            ("sample-apiserver", "1.29.2"),
        ] {
            let items = container::programs(&[(name, self.programs.file(name))]);
            let own = layer(name, &items)?;
            let program = format!("/{name}");
            let entrypoint = [program.as_str()];
            let settings = Settings {
                entrypoint: &entrypoint,
                ..Settings::default()
            };
            write(name, tag, &[&own], settings)?;
        }
        let mut items = runtime::skeleton();
        items.extend(container::programs(&[
            ("usr/local/bin/etcd", self.etcd.file("etcd")),
            ("usr/local/bin/etcdctl", self.etcd.file("etcdctl")),
        ]));
        let etcd = layer("etcd", &items)?;
        let settings = Settings {
            entrypoint: &["/usr/local/bin/etcd"],
            ..Settings::default()
        };
        write("registry.k8s.io/etcd", "3.7.0-0", &[&etcd], settings)
    }

    /// Debian's programs. bash stands for the `sh` of upstream's images, which knows more than dash.
    fn debian(&self) -> Result<BTreeMap<String, Item>> {
        let mut items = BTreeMap::new();
        add_folder(self.tree, "", &mut items)?;
        items.extend(runtime::skeleton());
        for (link, to) in [
            ("usr/bin/sh", "bash"),
            ("usr/bin/nc", "nc.openbsd"),
            ("usr/bin/awk", "mawk"),
        ] {
            items.insert(link.to_owned(), Item::Link { to: to.to_owned() });
        }
        Ok(items)
    }

    /// As upstream's Dockerfile of agnhost.
    fn agnhost(&self) -> BTreeMap<String, Item> {
        let mut items = container::programs(&[
            ("agnhost", self.programs.file("agnhost")),
            ("coredns", self.coredns.file("coredns")),
        ]);
        for name in ["localhost.crt", "localhost.key"] {
            let from = self.programs.file(name);
            items.insert(name.to_owned(), Item::Copy { from, mode: 0o644 });
        }
        items.insert(
            "agnhost-2".to_owned(),
            Item::Link {
                to: "agnhost".to_owned(),
            },
        );
        items.insert("uploads".to_owned(), Item::Folder { mode: 0o755 });
        let text = |text: &str| Item::Bytes {
            bytes: text.as_bytes().to_vec(),
            mode: 0o644,
        };
        items.insert("etc/passwd".to_owned(), text(PASSWD));
        items.insert("etc/group".to_owned(), text(GROUP));
        items
    }

    fn picture(&self, name: &str) -> BTreeMap<String, Item> {
        let file = |from: PathBuf| Item::Copy { from, mode: 0o644 };
        BTreeMap::from([
            (
                format!("{name}.jpg"),
                file(self.programs.file(&format!("{name}.jpg"))),
            ),
            (
                "data.json".to_owned(),
                file(self.programs.file(&format!("{name}.json"))),
            ),
        ])
    }

    /// busybox and a link for each of its applets.
    fn busybox(&self) -> Result<BTreeMap<String, Item>> {
        let program = self.tree.join("usr/bin/busybox");
        let mut list = Command::new(&program);
        list.arg("--list");
        let output = list
            .output()
            .with_context(|| format!("starting `{}`", program.display()))?;
        ensure!(
            output.status.success(),
            "`{} --list`: {}",
            program.display(),
            output.status
        );
        let mut items = runtime::skeleton();
        items.extend(container::programs(&[("bin/busybox", program)]));
        for applet in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            if applet != "busybox" {
                let to = "busybox".to_owned();
                items.insert(format!("bin/{applet}"), Item::Link { to });
            }
        }
        Ok(items)
    }

    fn with_set_user_id(&self) -> BTreeMap<String, Item> {
        let from = self.programs.file("nnp");
        BTreeMap::from([(
            "usr/local/bin/nnp".to_owned(),
            Item::Copy { from, mode: 0o4755 },
        )])
    }
}

/// How an image starts.
#[derive(Clone, Copy, Default)]
struct Settings<'a> {
    entrypoint: &'a [&'a str],
    command: &'a [&'a str],
    user: &'a str,
}

/// The users of agnhost's image, which tests of supplementary groups expect.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    nobody:x:65534:65534:nobody:/:/sbin/nologin\n\
    user-defined-in-image:x:1000:1000::/:/bin/sh\n";
const GROUP: &str = "root:x:0:\n\
    nogroup:x:65534:\n\
    user-defined-in-image:x:1000:\n\
    group-defined-in-image:x:50000:user-defined-in-image\n";

/// Places of upstream's nginx image.
fn nginx() -> BTreeMap<String, Item> {
    let text = |text: &str| Item::Bytes {
        bytes: text.as_bytes().to_vec(),
        mode: 0o644,
    };
    let folder = Item::Folder { mode: 0o755 };
    BTreeMap::from([
        ("etc/nginx/nginx.conf".to_owned(), text(NGINX)),
        (
            "usr/share/nginx/html/index.html".to_owned(),
            text("<title>Welcome to nginx!</title>\n"),
        ),
        ("var/lib/nginx".to_owned(), folder.clone()),
        ("var/log/nginx".to_owned(), folder),
    ])
}

const NGINX: &str = include_str!("conformance/nginx.conf");

fn marker(tag: &str) -> BTreeMap<String, Item> {
    let bytes = format!("{tag}\n").into_bytes();
    BTreeMap::from([(
        "etc/image-tag".to_owned(),
        Item::Bytes { bytes, mode: 0o644 },
    )])
}

/// Adds all below a folder of this machine, except [`LEFT_OUT`].
fn add_folder(folder: &Path, name: &str, items: &mut BTreeMap<String, Item>) -> Result<()> {
    let entries = fs::read_dir(folder)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .with_context(|| format!("reading `{}`", folder.display()))?;
    for entry in entries {
        let path = entry.path();
        let below = entry.file_name();
        let below = below
            .to_str()
            .with_context(|| format!("`{}` is not UTF-8", path.display()))?;
        let below = match name {
            "" => below.to_owned(),
            name => format!("{name}/{below}"),
        };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if LEFT_OUT.contains(&below.as_str()) {
                continue;
            }
            items.insert(below.clone(), Item::Folder { mode: 0o755 });
            add_folder(&path, &below, items)?;
        } else if kind.is_symlink() {
            let to = fs::read_link(&path)?.display().to_string();
            items.insert(below, Item::Link { to });
        } else if kind.is_file() {
            use std::os::unix::fs::PermissionsExt as _;
            let executable = entry.metadata()?.permissions().mode() & 0o111 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            items.insert(below, Item::Copy { from: path, mode });
        }
    }
    Ok(())
}
