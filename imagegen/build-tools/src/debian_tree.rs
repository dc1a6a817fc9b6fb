//! Debian trees: folders made by mmdebstrap that hold programs (and kernels, and sources) of a known
//! release, so that the building host's own versions do not matter.
//!
//! Trees are read-only once made; a caller that changes one copies it first.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cache::{Cache, Key};
use crate::process;
use crate::progress::Progress;

/// Overrides the Debian mirror that trees are made from.
pub const MIRROR_ENVIRONMENT: &str = "FIRSTLIGHT_DEBIAN_MIRROR";
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";

/// Every file in a tree is dated not later than this (2026-01-01 00:00 UTC), so that what is made from it
/// does not carry the day it was made on.
pub const SOURCE_DATE_EPOCH: u64 = 1_767_225_600;

const NON_FREE_FIRMWARE: &str = "non-free-firmware";

/// What a tree shall hold.
#[derive(Debug, Clone)]
pub struct Spec {
    /// For people: "tools", "root", "kubernetes build".
    pub name: &'static str,
    /// Debian's release name: `trixie`, `bookworm`.
    pub suite: &'static str,
    /// mmdebstrap's variant: `essential`, `apt`, …
    pub variant: &'static str,
    pub packages: Vec<String>,
    /// Further mmdebstrap arguments: hooks, `--dpkgopt=…`.
    pub arguments: Vec<String>,
    /// Whether packages may come from Debian's component `non-free-firmware`.
    pub non_free_firmware: bool,
    /// Also keep Debian's sources in the tree's `sources.list`.
    pub sources: bool,
}

impl Spec {
    pub fn new(
        name: &'static str,
        suite: &'static str,
        variant: &'static str,
        packages: &[&str],
    ) -> Self {
        Self {
            name,
            suite,
            variant,
            packages: packages.iter().map(|&p| p.to_owned()).collect(),
            arguments: Vec::new(),
            non_free_firmware: false,
            sources: false,
        }
    }

    fn key(&self) -> Key {
        let mut key = Key::new("tree", 1)
            .with("suite", self.suite)
            .with("variant", self.variant)
            .with("mirror", mirror())
            .with("sources", self.sources.to_string());
        if self.non_free_firmware {
            key = key.with("component", NON_FREE_FIRMWARE);
        }
        for package in &self.packages {
            key = key.with("package", package);
        }
        for argument in &self.arguments {
            key = key.with("argument", argument);
        }
        key
    }
}

/// The Debian mirror in use.
pub fn mirror() -> String {
    std::env::var(MIRROR_ENVIRONMENT)
        .ok()
        .filter(|m| !m.is_empty())
        .unwrap_or_else(|| DEFAULT_MIRROR.to_owned())
}

/// A tree that exists.
#[derive(Debug, Clone)]
pub struct Tree {
    path: PathBuf,
}

impl Tree {
    /// The tree of `spec` out of `cache`; made first where it is not there.
    pub fn ensure(cache: &Cache, spec: &Spec, progress: &Progress) -> Result<Self> {
        let path = cache.ensure("trees", &spec.key(), |making| {
            let stage = progress.stage(format_args!("Debian tree for {}", spec.name));
            make(spec, making, "directory")
                .with_context(|| format!("making the Debian tree for {}", spec.name))?;
            stage.done();
            Ok(())
        })?;
        Ok(Self { path })
    }

    /// The same as a tar archive, with the owners and modes that a folder cannot carry everywhere.
    pub fn ensure_tar(cache: &Cache, spec: &Spec, progress: &Progress) -> Result<PathBuf> {
        cache.ensure("tree-archives", &spec.key(), |making| {
            let stage = progress.stage(format_args!("Debian tree for {}", spec.name));
            make(spec, making, "tar")
                .with_context(|| format!("making the Debian tree for {}", spec.name))?;
            stage.done();
            Ok(())
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A program of the tree, run by the tree's own loader and libraries: no privilege is needed, and paths
    /// in arguments are the building host's.
    pub fn program(&self, program: &str) -> Result<Command> {
        let found = ["usr/bin", "usr/sbin", "usr/lib/systemd"]
            .iter()
            .map(|dir| self.path.join(dir).join(program))
            .find(|file| file.is_file())
            .with_context(|| {
                format!(
                    "no program `{program}` in the tree `{}`",
                    self.path.display()
                )
            })?;
        let libraries = [
            "usr/lib/x86_64-linux-gnu",
            "usr/lib/x86_64-linux-gnu/systemd",
            "usr/lib",
        ]
        .map(|dir| self.path.join(dir).display().to_string())
        .join(":");
        let mut command = Command::new(self.path.join("usr/lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(libraries).arg(found);
        Ok(command)
    }

    /// A program run with the tree as its root. `binds` are folders of the host that it sees, as
    /// (outside, inside); they and /proc, /sys, /dev are mounted in a namespace of its own and vanish with it.
    /// Needs root, because only root may mount and change root.
    pub fn chroot(&self, binds: &[(&Path, &str)], program: &str) -> Result<Command> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "running `{program}` in a Debian tree mounts and changes root, which only root may; run imagegen with sudo"
        );
        let mut script = String::from("set -e; tree=$1; shift\n");
        for (kind, dir) in [
            ("proc", "proc"),
            ("sysfs", "sys"),
            ("tmpfs", "run"),
            ("tmpfs", "tmp"),
        ] {
            script.push_str(&format!("mount -t {kind} {kind} \"$tree/{dir}\"\n"));
        }
        script.push_str("mount --rbind /dev \"$tree/dev\"\n");
        for (_, inside) in binds {
            // Mount points lie below the two tmpfs, because the tree itself is never written to.
            ensure!(
                inside.starts_with("/tmp/") || inside.starts_with("/run/"),
                "a folder can be shown to a tree's program below /tmp or /run only, not at `{inside}`"
            );
            script.push_str(&format!(
                "mkdir -p \"$tree{inside}\"; mount --bind \"$1\" \"$tree{inside}\"; shift\n"
            ));
        }
        script.push_str("exec chroot \"$tree\" \"$@\"\n");

        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            &script,
            "sh",
        ]);
        command.arg(&self.path);
        command.args(binds.iter().map(|(outside, _)| outside));
        command.arg(program);
        set_environment(&mut command);
        Ok(command)
    }
}

/// What every program finds that runs inside a tree, whatever the building host has: the rest is cleared.
pub fn set_environment(command: &mut Command) {
    command.env_clear();
    command.env(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    command.envs([("HOME", "/root"), ("LC_ALL", "C.UTF-8"), ("TZ", "UTC")]);
    command.env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string());
}

fn make(spec: &Spec, target: &Path, format: &str) -> Result<()> {
    let mmdebstrap = process::require("mmdebstrap", "mmdebstrap")?;
    let mirror = mirror();
    let mut command = Command::new(mmdebstrap);
    command.env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string());
    command.arg(format!("--variant={}", spec.variant));
    command.arg(format!("--format={format}"));
    command.arg(format!("--include={}", spec.packages.join(",")));
    command.args(&spec.arguments);
    command.arg(spec.suite).arg(target);
    let components = match spec.non_free_firmware {
        true => format!("main {NON_FREE_FIRMWARE}"),
        false => "main".to_owned(),
    };
    let line =
        |kind: &str, suite: &str, path: &str| format!("{kind} {mirror}{path} {suite} {components}");
    let security = mirror.trim_end_matches("/debian").to_owned() + "/debian-security";
    command.arg(line("deb", spec.suite, ""));
    command.arg(line("deb", &format!("{}-updates", spec.suite), ""));
    command.arg(format!(
        "deb {security} {}-security {components}",
        spec.suite
    ));
    if spec.sources {
        command.arg(line("deb-src", spec.suite, ""));
    }
    process::run(&mut command)
}
