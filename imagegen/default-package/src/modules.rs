//! Programs built from Go modules.
//!
//! Each family of programs has a wrapper module in `go/`: its `go.mod` names every version, its `go.sum` the
//! digest of every module, so what the proxy serves is checked against our tree. Debian 13 brings the `go`
//! command and gcc; the `go` command fetches the one pinned toolchain, whose digest the checksum database
//! vouches for. The same inputs give the same bytes on every machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use build_tools::cache::{Cache, Key};
use build_tools::debian_tree::{Spec, Tree};
use build_tools::process;
use build_tools::progress::{Progress, Stage};

/// The newest Go of the line that upstream builds Kubernetes 1.37 with.
const TOOLCHAIN: &str = "go1.26.9";
const WORK: &str = "/run/go/work";
const OUT: &str = "/tmp/out";
const GO_CACHE: &str = "/run/go/build";
const MODULES: &str = "/run/go/mod";
const HOST: &str = "/run/host";

/// Settings of the `go` command that a machine behind a proxy needs; they do not change what is built.
const PASSED_ON: &[&str] = &[
    "GOPROXY",
    "GOSUMDB",
    "GONOSUMDB",
    "GONOPROXY",
    "GOPRIVATE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];
/// Where systems keep the certificate authorities that they trust: Debian, Fedora, openSUSE.
const AUTHORITIES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// One family of programs.
#[derive(Debug)]
pub(super) struct Module {
    /// Its folder in `go/`.
    pub(super) name: &'static str,
    /// The version of the module that holds the programs, without `v`.
    pub(super) version: &'static str,
    files: &'static [(&'static str, &'static str)],
    programs: &'static [Program],
    tags: &'static str,
    /// Variables that the linker sets to the version; see [`Module::linker_flags`].
    stamps: &'static [(&'static str, Stamp)],
    cgo: bool,
    /// Further lines of the build script.
    after: &'static str,
}

/// A main package and the file that its program becomes.
#[derive(Debug)]
struct Program {
    package: &'static str,
    file: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Stamp {
    /// `v1.37.2`.
    V,
    /// `1.37.2`.
    Plain,
    Major,
    Minor,
    Text(&'static str),
}

const fn program(package: &'static str, file: &'static str) -> Program {
    Program { package, file }
}

macro_rules! files {
    ($name:literal $(, $more:literal)*) => {
        &[
            ("go.mod", include_str!(concat!("../go/", $name, "/go.mod"))),
            ("go.sum", include_str!(concat!("../go/", $name, "/go.sum"))),
            $(($more, include_str!(concat!("../go/", $name, "/", $more))),)*
        ]
    };
}

/// The programs of Kubernetes that a cluster runs.
pub(super) const KUBERNETES: [&str; 7] = [
    "kubeadm",
    "kubelet",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubectl",
];

/// As `hack/lib/version.sh` of Kubernetes stamps them. No commit: a module does not say its own.
const KUBERNETES_STAMPS: &[(&str, Stamp)] = &[
    ("k8s.io/component-base/version.gitVersion", Stamp::V),
    ("k8s.io/component-base/version.gitMajor", Stamp::Major),
    ("k8s.io/component-base/version.gitMinor", Stamp::Minor),
    (
        "k8s.io/component-base/version.gitTreeState",
        Stamp::Text("clean"),
    ),
    (
        "k8s.io/component-base/version.buildDate",
        Stamp::Text("1970-01-01T00:00:00Z"),
    ),
    ("k8s.io/client-go/pkg/version.gitVersion", Stamp::V),
    ("k8s.io/client-go/pkg/version.gitMajor", Stamp::Major),
    ("k8s.io/client-go/pkg/version.gitMinor", Stamp::Minor),
    (
        "k8s.io/client-go/pkg/version.gitTreeState",
        Stamp::Text("clean"),
    ),
    (
        "k8s.io/client-go/pkg/version.buildDate",
        Stamp::Text("1970-01-01T00:00:00Z"),
    ),
];

macro_rules! kubernetes {
    ($const:ident, $name:literal, $version:literal, pause $pause:literal) => {
        pub(super) static $const: Module = Module {
            name: $name,
            version: $version,
            files: files!($name),
            programs: &[
                program("k8s.io/kubernetes/cmd/kubeadm", "kubeadm"),
                program("k8s.io/kubernetes/cmd/kubelet", "kubelet"),
                program("k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
                program(
                    "k8s.io/kubernetes/cmd/kube-controller-manager",
                    "kube-controller-manager",
                ),
                program("k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
                program("k8s.io/kubernetes/cmd/kube-proxy", "kube-proxy"),
                program("k8s.io/kubernetes/cmd/kubectl", "kubectl"),
            ],
            tags: "selinux,notest,grpcnotrace",
            stamps: KUBERNETES_STAMPS,
            cgo: false,
            // kubeadm with a wrong version looks for wrong images; pause is C and lies in the same module.
            after: concat!(
                "test \"$(/tmp/out/kubeadm version -o short)\" = v",
                $version,
                "\n",
                "module=$(go list -m -f '{{.Dir}}' k8s.io/kubernetes)\n",
                "gcc -Os -Wall -Werror -static -DVERSION=v",
                $pause,
                " -Wl,--build-id=none -s ",
                "-o /tmp/out/pause \"$module/build/pause/linux/pause.c\"\n",
            ),
        };
    };
}

kubernetes!(KUBERNETES_1_37, "kubernetes-1.37", "1.37.2", pause "3.10.2");
kubernetes!(KUBERNETES_1_36, "kubernetes-1.36", "1.36.3", pause "3.10.2");
kubernetes!(KUBERNETES_1_35, "kubernetes-1.35", "1.35.4", pause "3.10.1");
kubernetes!(KUBERNETES_1_34, "kubernetes-1.34", "1.34.4", pause "3.10.1");
kubernetes!(KUBERNETES_1_33, "kubernetes-1.33", "1.33.13", pause "3.10");
kubernetes!(KUBERNETES_1_32, "kubernetes-1.32", "1.32.13", pause "3.10");
kubernetes!(KUBERNETES_1_31, "kubernetes-1.31", "1.31.14", pause "3.10");
kubernetes!(KUBERNETES_1_30, "kubernetes-1.30", "1.30.14", pause "3.9");
kubernetes!(KUBERNETES_1_29, "kubernetes-1.29", "1.29.6", pause "3.9");

macro_rules! etcd {
    ($const:ident, $name:literal, $version:literal) => {
        pub(super) static $const: Module = Module {
            name: $name,
            version: $version,
            files: files!($name),
            programs: &[
                program("go.etcd.io/etcd/server/v3", "etcd"),
                program("go.etcd.io/etcd/etcdctl/v3", "etcdctl"),
                program("go.etcd.io/etcd/etcdutl/v3", "etcdutl"),
            ],
            tags: "",
            stamps: &[],
            cgo: false,
            after: "",
        };
    };
}

etcd!(ETCD_3_7, "etcd-3.7", "3.7.3");
etcd!(ETCD_3_6, "etcd-3.6", "3.6.16");

pub(super) static CONTAINERD: Module = Module {
    name: "containerd-2.4",
    version: "2.4.2",
    files: files!("containerd-2.4"),
    programs: &[
        program(
            "github.com/containerd/containerd/v2/cmd/containerd",
            "containerd",
        ),
        program(
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            "containerd-shim-runc-v2",
        ),
        program("github.com/containerd/containerd/v2/cmd/ctr", "ctr"),
    ],
    // The snapshotters left out need cgo or kernel modules that the node image does not have.
    tags: "osusergo,netgo,static_build,no_btrfs,no_devmapper,no_zfs",
    stamps: &[
        (
            "github.com/containerd/containerd/v2/version.Version",
            Stamp::V,
        ),
        (
            "github.com/containerd/containerd/v2/version.Package",
            Stamp::Text("github.com/containerd/containerd/v2"),
        ),
    ],
    cgo: false,
    after: "",
};

pub(super) static CRICTL: Module = Module {
    name: "cri-tools-1.37",
    version: "1.37.0",
    files: files!("cri-tools-1.37"),
    programs: &[program("sigs.k8s.io/cri-tools/cmd/crictl", "crictl")],
    tags: "",
    stamps: &[("sigs.k8s.io/cri-tools/pkg/version.Version", Stamp::Plain)],
    cgo: false,
    after: "",
};

macro_rules! plugins {
    ($($kind:literal / $name:literal),* $(,)?) => {
        &[$(program(
            concat!("github.com/containernetworking/plugins/plugins/", $kind, "/", $name),
            $name,
        )),*]
    };
}

pub(super) static CNI_PLUGINS: Module = Module {
    name: "cni-plugins-1.10",
    version: "1.10.0",
    files: files!("cni-plugins-1.10"),
    programs: plugins!(
        "ipam" / "dhcp",
        "ipam" / "host-local",
        "ipam" / "static",
        "main" / "bridge",
        "main" / "dummy",
        "main" / "host-device",
        "main" / "ipvlan",
        "main" / "loopback",
        "main" / "macvlan",
        "main" / "ptp",
        "main" / "tap",
        "main" / "vlan",
        "meta" / "bandwidth",
        "meta" / "firewall",
        "meta" / "portmap",
        "meta" / "sbr",
        "meta" / "tuning",
        "meta" / "vrf",
    ),
    tags: "",
    stamps: &[(
        "github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion",
        Stamp::V,
    )],
    cgo: false,
    after: "",
};

/// flannel's own CNI plugin. Its present home, `github.com/flannel-io/cni-plugin`, is not served as a module; this is
/// the last release of the plugins' repository that held it.
pub(super) static FLANNEL_CNI: Module = Module {
    name: "flannel-cni-0.9",
    version: "0.9.1",
    files: files!("flannel-cni-0.9"),
    programs: &[program(
        "github.com/containernetworking/plugins/plugins/meta/flannel",
        "flannel",
    )],
    tags: "",
    stamps: &[(
        "github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion",
        Stamp::V,
    )],
    cgo: false,
    after: "",
};

pub(super) static FLANNEL: Module = Module {
    name: "flannel-0.28",
    version: "0.28.10",
    files: files!(
        "flannel-0.28",
        "tencent-vpc/go.mod",
        "tencent-vpc/v20170312/vpc.go"
    ),
    programs: &[
        program("github.com/flannel-io/flannel", "flanneld"),
        program(
            "github.com/flannel-io/flannel/cmd/install_conf",
            "install-conf",
        ),
    ],
    tags: "osusergo,netgo",
    stamps: &[(
        "github.com/flannel-io/flannel/pkg/version.Version",
        Stamp::V,
    )],
    // Its UDP backend is C on amd64, and the main package imports every backend.
    cgo: true,
    after: "",
};

pub(super) static COREDNS: Module = Module {
    name: "coredns-1.15",
    version: "1.15.0",
    files: files!("coredns-1.15"),
    programs: &[program("github.com/coredns/coredns", "coredns")],
    tags: "",
    stamps: &[],
    cgo: false,
    after: "",
};

/// Builds modules in one Debian tree.
pub(super) struct Builder<'a> {
    cache: &'a Cache,
    tree: Tree,
    progress: &'a Progress,
}

/// The programs of one module, built.
#[derive(Debug, Clone)]
pub(super) struct Built {
    folder: PathBuf,
}

impl Built {
    pub(super) fn file(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// For keys: the folder is named by what it was made from.
    pub(super) fn identity(&self) -> String {
        crate::identity(&self.folder)
    }
}

impl<'a> Builder<'a> {
    pub(super) fn new(cache: &'a Cache, progress: &'a Progress) -> Result<Self> {
        let tree = Tree::ensure(cache, &build_tree(), progress)?;
        Ok(Self {
            cache,
            tree,
            progress,
        })
    }

    /// The programs of `module`, from the cache or built now. What an interrupted build had compiled and fetched is
    /// used again.
    pub(super) fn build(&self, module: &Module) -> Result<Built> {
        let script = module.script();
        let mut key = Key::new("go-module", 1)
            .with("tree", crate::identity(self.tree.path()))
            .with("toolchain", TOOLCHAIN)
            .with("script", &script);
        for (path, text) in module.files {
            key = key.with(path, text);
        }
        let folder = self.cache.ensure("go-programs", &key, |making| {
            let name = format!("{} {}", module.title(), module.version);
            let stage = self.progress.stage(format_args!("building {name}"));
            fs::create_dir(making)?;
            self.run(module, &script, making, &stage)
                .with_context(|| format!("building {name} from Go modules"))?;
            stage.done();
            Ok(())
        })?;
        Ok(Built { folder })
    }

    fn run(&self, module: &Module, script: &str, out: &Path, stage: &Stage) -> Result<()> {
        let scratch = tempfile::tempdir().context("creating a temporary folder")?;
        let work = scratch.path().join("work");
        for (path, text) in module.files {
            write(&work.join(path), text.as_bytes())?;
        }
        let host = scratch.path().join("host");
        self::host(&host)?;
        let folder = |name: &str| -> Result<PathBuf> {
            let path = self.cache.root().join(name);
            fs::create_dir_all(&path).with_context(|| format!("creating `{}`", path.display()))?;
            Ok(path)
        };
        let (build, modules) = (folder("go-build")?, folder("go-mod")?);
        let binds = [
            (work.as_path(), WORK),
            (host.as_path(), HOST),
            (build.as_path(), GO_CACHE),
            (modules.as_path(), MODULES),
            (out, OUT),
        ];
        let mut command = self.tree.chroot(&binds, "sh")?;
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.args(["-c", script]);
        watched(&mut command, stage)
    }
}

impl Module {
    /// `Kubernetes`, `containerd`: the name without its version.
    fn title(&self) -> &str {
        self.name
            .rsplit_once('-')
            .map_or(self.name, |(title, _)| title)
    }

    /// Whether the module's script builds pause under this version.
    #[cfg(test)]
    pub(super) fn builds_pause(&self, version: &str) -> bool {
        self.after.contains(&format!("-DVERSION=v{version} "))
    }

    /// The linker's flags: no symbols and no build id, as upstream's releases, and the version stamps.
    fn linker_flags(&self) -> String {
        let mut flags = "-s -w -buildid=".to_owned();
        let mut parts = self.version.split('.');
        let major = parts.next().unwrap_or_default();
        let minor = parts.next().unwrap_or_default();
        for (variable, stamp) in self.stamps {
            let value = match stamp {
                Stamp::V => format!("v{}", self.version),
                Stamp::Plain => self.version.to_owned(),
                Stamp::Major => major.to_owned(),
                Stamp::Minor => minor.to_owned(),
                Stamp::Text(text) => (*text).to_owned(),
            };
            flags.push_str(&format!(" -X {variable}={value}"));
        }
        if self.cgo {
            flags.push_str(" -linkmode external -extldflags -static");
        }
        flags
    }

    fn script(&self) -> String {
        let packages: Vec<_> = self
            .programs
            .iter()
            .map(|program| program.package)
            .collect();
        let mut script = format!(
            "set -e\n\
             export GOTOOLCHAIN={TOOLCHAIN} GOCACHE={GO_CACHE} GOMODCACHE={MODULES} GOFLAGS=-modcacherw\n\
             export SSL_CERT_FILE={HOST}/authorities.crt CGO_ENABLED={}\n\
             cd {WORK}\n\
             go build -v -mod=readonly -trimpath -buildvcs=false -tags '{}' -ldflags '{}' -o {OUT}/ {}\n",
            u8::from(self.cgo),
            self.tags,
            self.linker_flags(),
            packages.join(" "),
        );
        for program in self.programs {
            let built = built_name(program.package);
            if built != program.file {
                script.push_str(&format!("mv {OUT}/{built} {OUT}/{}\n", program.file));
            }
        }
        script + self.after
    }
}

/// The file name that `go build` gives a main package: the last element of its path that is not a major version.
fn built_name(package: &str) -> &str {
    let version = |part: &&str| {
        part.strip_prefix('v')
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    package
        .rsplit('/')
        .find(|part| !version(part))
        .unwrap_or(package)
}

/// Debian's `go` starts the pinned toolchain; gcc and libc serve flannel and pause.
fn build_tree() -> Spec {
    let packages = ["ca-certificates", "gcc", "golang-go", "libc6-dev"];
    let mut spec = Spec::new("building Go modules", "trixie", "apt", &packages);
    // The tree is read-only, and the host's resolver is shown to it when it runs.
    for name in ["hosts", "resolv.conf"] {
        spec.arguments.push(format!(
            "--customize-hook=ln -sf {HOST}/{name} \"$1/etc/{name}\""
        ));
    }
    spec
}

/// What a program in the tree needs of this machine to reach the module proxy: names and authorities.
fn host(folder: &Path) -> Result<()> {
    for name in ["hosts", "resolv.conf"] {
        // A machine may have neither; then nothing needs them.
        write(
            &folder.join(name),
            &fs::read(Path::new("/etc").join(name)).unwrap_or_default(),
        )?;
    }
    let chosen = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let authorities = chosen
        .into_iter()
        .chain(AUTHORITIES.iter().map(PathBuf::from))
        .find_map(|path| fs::read(path).ok())
        .context("no certificate authorities on this machine; install them: sudo apt-get install ca-certificates")?;
    write(&folder.join("authorities.crt"), &authorities)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating `{}`", parent.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("writing `{}`", path.display()))
}

/// Runs a long command; the stage shows the line it is at.
pub(super) fn watched(command: &mut Command, stage: &Stage) -> Result<()> {
    let mut count = 0_u32;
    process::watch("sh", command, |line| {
        count += 1;
        stage.at(format_args!("{count}: {line}"));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[&Module] = &[
        &KUBERNETES_1_37,
        &KUBERNETES_1_36,
        &KUBERNETES_1_35,
        &KUBERNETES_1_34,
        &KUBERNETES_1_33,
        &KUBERNETES_1_32,
        &KUBERNETES_1_31,
        &KUBERNETES_1_30,
        &KUBERNETES_1_29,
        &ETCD_3_7,
        &ETCD_3_6,
        &CONTAINERD,
        &CRICTL,
        &CNI_PLUGINS,
        &FLANNEL_CNI,
        &FLANNEL,
        &COREDNS,
    ];

    #[test]
    fn every_module_requires_the_version_it_is_named_by() {
        for module in ALL {
            let text = module.files[0].1;
            let version = format!(" v{}", module.version);
            assert!(
                text.contains(&version),
                "{}: no{version} in go.mod",
                module.name
            );
            for program in module.programs {
                let root = program
                    .package
                    .split('/')
                    .take(3)
                    .collect::<Vec<_>>()
                    .join("/");
                assert!(
                    text.contains(&root),
                    "{}: {root} is not required",
                    module.name
                );
                assert!(
                    text.contains(program.package),
                    "{}: {}",
                    module.name,
                    program.package
                );
            }
        }
    }

    #[test]
    fn every_folder_of_wrapper_modules_is_used() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("go");
        let mut found: Vec<_> = fs::read_dir(folder)
            .expect("go/ is there")
            .map(|entry| entry.expect("an entry"))
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().into_string().expect("UTF-8"))
            .collect();
        found.sort();
        let mut used: Vec<_> = ALL.iter().map(|module| module.name.to_owned()).collect();
        used.sort();
        assert_eq!(found, used);
    }

    #[test]
    fn programs_get_the_names_that_go_build_gives_them() {
        assert_eq!(built_name("go.etcd.io/etcd/server/v3"), "server");
        assert_eq!(built_name("k8s.io/kubernetes/cmd/kubelet"), "kubelet");
        assert_eq!(
            built_name("github.com/containerd/containerd/v2/cmd/ctr"),
            "ctr"
        );
        let script = ETCD_3_7.script();
        assert!(
            script.contains("mv /tmp/out/server /tmp/out/etcd\n"),
            "{script}"
        );
    }

    #[test]
    fn stamps_carry_the_version_as_upstream_writes_it() {
        let flags = KUBERNETES_1_34.linker_flags();
        for wanted in [
            "version.gitVersion=v1.34.4",
            "version.gitMinor=34",
            "-buildid=",
        ] {
            assert!(flags.contains(wanted), "{flags}");
        }
        assert!(CRICTL.linker_flags().ends_with("version.Version=1.37.0"));
    }
}
