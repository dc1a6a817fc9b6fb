//! Kubernetes 1.20, from Debian 12's source package.
//!
//! Three stages, each kept in the cache: the source, the seven programs (minutes), and pause. Which
//! version it is, the source says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::modules::{KUBERNETES, watched};
use build_tools::cache::{Cache, Key};
use build_tools::debian_tree::{Spec, Tree};
use build_tools::process;
use build_tools::progress::Progress;

/// The path of the source during the build: inside a GOPATH, because the tree is from before Go
/// modules were the rule for it, and always at the same place, so that no path of this machine gets
/// into a program.
const SOURCE: &str = "/run/go/src/k8s.io/kubernetes";
const GO_CACHE: &str = "/run/go-build";

/// What was built.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    /// Without a leading `v`.
    pub(super) version: String,
    /// Debian's version of the source.
    pub(super) source: String,
    kubernetes: PathBuf,
    pause: PathBuf,
}

impl Programs {
    pub(super) fn ensure(cache: &Cache, progress: &Progress) -> Result<Self> {
        let tree = Tree::ensure(cache, &build_tree(), progress)?;
        let source = source(cache, &tree, progress)?;
        let debian = debian_version(&source)?;
        let version = upstream_version(&debian)?;
        let go_cache = cache.root().join("go-build");
        fs::create_dir_all(&go_cache)
            .with_context(|| format!("creating `{}`", go_cache.display()))?;
        let build = Build {
            tree: &tree,
            source: &source,
            go_cache: &go_cache,
            progress,
        };
        let kubernetes = build.kubernetes(cache, &version)?;
        let pause = build.pause(cache)?;
        Ok(Self {
            version,
            source: debian,
            kubernetes,
            pause,
        })
    }

    /// The folder of the seven programs.
    pub(super) fn kubernetes(&self) -> &Path {
        &self.kubernetes
    }

    pub(super) fn pause(&self) -> PathBuf {
        self.pause.join("pause")
    }

    /// For keys: both folders are named by what they were made from.
    pub(super) fn identity(&self) -> String {
        format!(
            "{} {}",
            crate::identity(&self.kubernetes),
            crate::identity(&self.pause)
        )
    }
}

/// Debian 12: the last release with this source, and with a Go that builds it.
fn build_tree() -> Spec {
    let packages = [
        "ca-certificates",
        "dpkg-dev",
        "gcc",
        "golang-github-modern-go-reflect2-dev",
        "golang-go",
        "jq",
        "libc6-dev",
        "make",
        "patch",
        "rsync",
        "xz-utils",
    ];
    let mut spec = Spec::new("building Kubernetes", "bookworm", "apt", &packages);
    spec.sources = true;
    // apt checks the source against the archive's signature; it needs the package lists, which are
    // gone after this.
    let fetch = "mkdir -p /usr/src/kubernetes && cd /usr/src/kubernetes && apt-get source --download-only kubernetes";
    spec.arguments
        .push(format!("--customize-hook=chroot \"$1\" sh -c '{fetch}'"));
    spec
}

/// The unpacked and patched source.
fn source(cache: &Cache, tree: &Tree, progress: &Progress) -> Result<PathBuf> {
    let key = Key::new("kubernetes-source", 1).with("tree", crate::identity(tree.path()));
    cache.ensure("kubernetes-source", &key, |making| {
        let stage = progress.stage("unpacking Kubernetes' source");
        fs::create_dir(making)?;
        // reflect2 as vendored reads Go's internals of 2018 and crashes with Debian's Go; Debian's
        // own copy does not.
        let script = "set -e\n\
             cd /tmp/work\n\
             dpkg-source --no-check -x /usr/src/kubernetes/*.dsc source\n\
             rm -r source/vendor/github.com/modern-go/reflect2\n\
             cp -r /usr/share/gocode/src/github.com/modern-go/reflect2 source/vendor/github.com/modern-go/";
        process::run(tree.chroot(&[(making, "/tmp/work")], "sh")?.args(["-c", script]))?;
        stage.done();
        Ok(())
    })
    .map(|entry| entry.join("source"))
}

struct Build<'a> {
    tree: &'a Tree,
    source: &'a Path,
    go_cache: &'a Path,
    progress: &'a Progress,
}

impl Build<'_> {
    fn kubernetes(&self, cache: &Cache, version: &str) -> Result<PathBuf> {
        let key = Key::new("kubernetes", 1)
            .with("source", crate::identity(self.source))
            .with("version", version);
        cache.ensure("kubernetes", &key, |making| {
            let stage = self.progress.stage("building Kubernetes");
            fs::create_dir(making)?;
            let work = making.join("work");
            fs::create_dir(&work)?;
            // make writes generated code into the tree, so it gets a copy.
            process::run(Command::new("cp").args(["-a", "--reflink=auto", "-T"]).arg(self.source).arg(&work))?;
            let (major, minor) = version.split_once('.').context("version without a dot")?;
            let minor = minor.split('.').next().unwrap_or_default();
            let what = KUBERNETES.map(|name| format!("cmd/{name}")).join(" ");
            // FORCE_HOST_GO: Debian's Go. KUBE_GIT_*: there is no repository to ask. -v: one line
            // for each Go package.
            let script = format!(
                "set -e\n\
                 mkdir -p {SOURCE}/_output/local/go && ln -sfn {GO_CACHE} {SOURCE}/_output/local/go/cache\n\
                 cd {SOURCE}\n\
                 export CGO_ENABLED=0 GO111MODULE=off FORCE_HOST_GO=y KUBE_STATIC_OVERRIDES=kubelet\n\
                 export KUBE_GIT_VERSION=v{version} KUBE_GIT_MAJOR={major} KUBE_GIT_MINOR={minor}\n\
                 export KUBE_GIT_TREE_STATE=archive KUBE_GIT_COMMIT=archive\n\
                 make WHAT='{what}' GOFLAGS=-v\n\
                 cd _output/local/bin/linux/amd64\n\
                 test \"$(./kubeadm version -o short)\" = v{version}\n\
                 mv {} /tmp/out/",
                KUBERNETES.join(" ")
            );
            let binds = [(work.as_path(), SOURCE), (self.go_cache, GO_CACHE), (making, "/tmp/out")];
            watched(self.tree.chroot(&binds, "sh")?.args(["-c", &script]), &stage)?;
            fs::remove_dir_all(&work).with_context(|| format!("removing `{}`", work.display()))?;
            stage.done();
            Ok(())
        })
    }

    fn pause(&self, cache: &Cache) -> Result<PathBuf> {
        let key = Key::new("pause", 1).with("source", crate::identity(self.source));
        cache.ensure("pause", &key, |making| {
            fs::create_dir(making)?;
            let script = format!(
                "gcc -Os -Wall -Werror -static -DVERSION=3.2 -Wl,--build-id=none -s \
                 -o /tmp/out/pause {SOURCE}/build/pause/linux/pause.c"
            );
            let binds = [(self.source, SOURCE), (making, "/tmp/out")];
            process::run(self.tree.chroot(&binds, "sh")?.args(["-c", &script]))
        })
    }
}

/// `1.20.5+really1.20.2-1.1+deb12u1`, from the source's changelog.
fn debian_version(source: &Path) -> Result<String> {
    let path = source.join("debian/changelog");
    let text =
        fs::read_to_string(&path).with_context(|| format!("reading `{}`", path.display()))?;
    crate::versions::of_changelog(&text)
        .with_context(|| format!("no version in the first line of `{}`", path.display()))
}

/// The upstream version; Debian writes `A+reallyB` where it went back from A to B.
fn upstream_version(debian: &str) -> Result<String> {
    let upstream = crate::versions::upstream(debian);
    ensure!(
        upstream.split('.').count() == 3
            && upstream.split('.').all(|part| part.parse::<u32>().is_ok()),
        "Debian's source of Kubernetes has the version `{debian}`, in which `{upstream}` is not a release of Kubernetes"
    );
    Ok(upstream)
}
