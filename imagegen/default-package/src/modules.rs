//! Programs built from Go modules.
//!
//! Each family of programs has a wrapper module in `go/`: its `go.mod` names every version, its
//! `go.sum` the digest of every module, so what the proxy serves is checked against our tree.
//! Debian 13 brings the `go` command and gcc; the `go` command fetches the one pinned toolchain,
//! whose digest the checksum database vouches for. The same inputs give the same bytes on every
//! machine.

mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use build_tools::cache::{Cache, Key};
use build_tools::debian_tree::{Spec, Tree};
use build_tools::process;
use build_tools::progress::{Progress, Stage};

pub(super) use self::table::*;

/// The newest Go of the line that upstream builds Kubernetes 1.37 with.
const TOOLCHAIN: &str = "go1.26.9";
const WORK: &str = "/run/go/work";
const OUT: &str = "/tmp/out";
const GO_CACHE: &str = "/run/go/build";
const MODULES: &str = "/run/go/mod";
const HOST: &str = "/run/host";

/// Settings of the `go` command that a machine behind a proxy needs; they do not change what is
/// built.
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
    /// Packages whose tests become a program.
    tests: &'static [Program],
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

    /// The programs of `module`, from the cache or built now. What an interrupted build had
    /// compiled and fetched is used again.
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

    /// The linker's flags: no symbols and no build id, as upstream's releases, and the version
    /// stamps.
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

    /// The files of its programs.
    pub(super) fn program_names(&self) -> impl Iterator<Item = &'static str> {
        self.programs.iter().map(|program| program.file)
    }

    /// What decides the bytes of its programs.
    pub(super) fn recipe(&self) -> String {
        format!("{TOOLCHAIN} {:?} {}", self.files, self.script())
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
        for test in self.tests {
            // `go test -c` does not tell what it compiles; the package is most of the work.
            script.push_str(&format!(
                "go build -v -mod=readonly -trimpath -buildvcs=false -tags '{tags}' {package}\n\
                 go test -c -mod=readonly -trimpath -buildvcs=false -tags '{tags}' -ldflags '{flags}' \
                 -o {OUT}/{file} {package}\n",
                tags = self.tags,
                package = test.package,
                flags = self.linker_flags(),
                file = test.file,
            ));
        }
        script + self.after
    }
}

/// The file name that `go build` gives a main package: the last element of its path that is not a
/// major version.
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

/// What a program in the tree needs of this machine to reach the module proxy: names and
/// authorities.
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
