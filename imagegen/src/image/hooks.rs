//! The package's build hook: a program that changes the root before it is sealed.
//!
//! It runs as root in a chroot of the image's root, once per image and never on a node.
//! Environment, host name and devices are fixed, there is no network and no other process, so an
//! image with a hook is as reproducible as the hook itself. This is isolation for reproducibility,
//! not a sandbox: who builds an image of a package trusts the package.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use build_tools::debian_tree;
use build_tools::process;
use build_tools::progress::Stage;

use super::archive::{Archive, Placed};
use super::root_files::STATE;
use crate::package::BUILD_HOOK;

/// The read-only package, as the hook sees it.
const PACKAGE: &str = "/run/package";

/// Options of tar for unpacking the root for the hook.
const UNPACK: &[&str] = &[
    "--extract",
    "--numeric-owner",
    "--same-owner",
    "--preserve-permissions",
    "--xattrs",
    "--xattrs-include=*",
];

/// Options of tar for packing the root that the hook changed.
const PACK: &[&str] = &[
    "--create",
    "--numeric-owner",
    "--sort=name",
    "--format=posix",
    "--xattrs",
    "--xattrs-include=*",
    // SELinux labels of the build host are not part of the image.
    "--xattrs-exclude=security.selinux",
    "--pax-option=delete=atime,delete=ctime",
];

/// Sets up mounts and devices in namespaces that end with the hook. `$1` is the root, `$2` the
/// package, `$3` the hook.
const ENVIRONMENT: &str = r#"set -e
umask 022
echo firstlight >/proc/sys/kernel/hostname
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
for folder in dev run tmp; do mount -t tmpfs tmpfs "$1/$folder"; done
for device in full null random urandom zero; do
  : >"$1/dev/$device"
  mount --bind "/dev/$device" "$1/dev/$device"
done
mkdir "$1/run/package"
mount --bind "$2" "$1/run/package"
mount -o remount,bind,ro "$1/run/package"
# This folder becomes /var on first boot.
mount --bind "$1/STATE" "$1/var"
exec setpriv --bounding-set=-mknod,-sys_boot,-sys_module,-sys_rawio,-sys_time -- chroot "$1" "/run/package/$3"
"#;

/// Runs the hook of the unpacked `package` in `root` and returns the changed root. `tar` returns
/// the command tar. The error of a failed hook has the hook's last output; the caller removes
/// `work`.
pub fn run(
    root: &Archive,
    package: &Path,
    tar: &dyn Fn() -> Result<Command>,
    work: &Path,
    stage: &Stage,
) -> Result<Archive> {
    let (before, folder, after) = (
        work.join("before-hook.tar"),
        work.join("hook-root"),
        work.join("after-hook.tar"),
    );
    let doing = |path: &Path| format!("creating `{}`", path.display());
    let file = File::create(&before).with_context(|| doing(&before))?;
    root.write(std::io::BufWriter::with_capacity(1 << 20, file))?;
    fs::create_dir(&folder).with_context(|| doing(&folder))?;
    let mut unpack = tar()?;
    unpack.args(UNPACK).arg("--file").arg(&before);
    process::run(unpack.arg("--directory").arg(&folder))?;
    remove(&before)?;

    stage.at(BUILD_HOOK);
    process::watch(BUILD_HOOK, &mut hook(&folder, package), |line| {
        stage.at(format_args!("{BUILD_HOOK}: {line}"));
        log::info!("{BUILD_HOOK}: {line}");
    })
    .context("running the package's hook inside the root")?;

    let mut pack = tar()?;
    pack.args(PACK).arg("--file").arg(&after);
    process::run(pack.arg("--directory").arg(&folder).arg("."))?;
    fs::remove_dir_all(&folder).with_context(|| format!("removing `{}`", folder.display()))?;

    let file = File::open(&after).with_context(|| format!("opening `{}`", after.display()))?;
    // The open file still gives access to the contents.
    remove(&after)?;
    let mut changed = Archive::default();
    changed
        .add_tar(&Arc::new(file), |path| Some(Placed::At(path.to_owned())))
        .with_context(|| format!("reading the root as `{BUILD_HOOK}` left it"))?;
    Ok(changed)
}

fn hook(root: &Path, package: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "--net",
        "--ipc",
        "--uts",
    ]);
    // Background processes of the hook end with it.
    command.args(["--pid", "--fork", "--kill-child", "--", "sh", "-c"]);
    command.arg(ENVIRONMENT.replace("STATE", STATE)).arg("sh");
    command.arg(root).arg(package).arg(BUILD_HOOK);
    debian_tree::set_environment(&mut command);
    command.env("FIRSTLIGHT_PACKAGE", PACKAGE);
    command
}

/// The part of the image's key that this module decides.
pub(super) fn recipe() -> String {
    let command = hook(Path::new("root"), Path::new("package"));
    format!("{:?}", (UNPACK, PACK, command))
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("removing `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use build_tools::progress::Progress;

    use super::*;

    struct Bench {
        dir: tempfile::TempDir,
    }

    impl Bench {
        fn new(script: &str) -> Result<Self> {
            let dir = tempfile::tempdir()?;
            let hook = dir.path().join("package").join(BUILD_HOOK);
            fs::create_dir_all(hook.parent().context("a folder")?)?;
            fs::write(&hook, script)?;
            fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
            Ok(Self { dir })
        }

        fn run(&self, root: &Archive) -> Result<Archive> {
            let work = self.dir.path().join("work");
            fs::create_dir_all(&work)?;
            let stage = Progress::quiet().stage("hook");
            let made = run(
                root,
                &self.dir.path().join("package"),
                &|| Ok(Command::new("tar")),
                &work,
                &stage,
            )?;
            assert_eq!(fs::read_dir(&work)?.count(), 0, "something was left behind");
            Ok(made)
        }
    }

    /// The smallest root that runs a shell: programs of this host with the libraries they load.
    fn root() -> Result<Archive> {
        let mut root = Archive::default();
        for (path, mode) in [
            ("dev", 0o755),
            ("proc", 0o555),
            ("run", 0o755),
            ("sys", 0o555),
            ("tmp", 0o1777),
            ("var", 0o755),
            (&format!("{STATE}/lib"), 0o755),
        ] {
            root.directory(path, mode);
        }
        for program in ["sh", "chmod", "id", "ls", "rm", "sleep", "uname"] {
            let path = PathBuf::from("/bin").join(program);
            root.host_file(&format!("bin/{program}"), 0o755, &path)?;
            let output = process::output(Command::new("ldd").arg(&path))?;
            for word in String::from_utf8_lossy(&output).split_whitespace() {
                if word.starts_with('/') {
                    root.host_file(word.trim_start_matches('/'), 0o755, Path::new(word))?;
                }
            }
        }
        root.file("etc/kept", 0o600, *b"kept\n");
        root.file("etc/gone", 0o644, *b"gone\n");
        root.symlink("etc/link", "/var/lib/elsewhere");
        Ok(root)
    }

    fn written(root: &Archive) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        root.write(&mut bytes)?;
        Ok(bytes)
    }

    fn may_run() -> bool {
        let may = nix::unistd::geteuid().is_root();
        if !may {
            let reason = "hooks run in a chroot, which needs root";
            assert!(
                std::env::var_os("FIRSTLIGHT_NO_SKIP").is_none_or(|value| value != "1"),
                "skipped: {reason}"
            );
            eprintln!("skipped: {reason}");
        }
        may
    }

    #[test]
    fn empty_hook_changes_nothing() -> Result<()> {
        if !may_run() {
            return Ok(());
        }
        let root = root()?;
        let same = Bench::new("#!/bin/sh\n")?.run(&root)?;
        assert!(written(&root)? == written(&same)?);
        Ok(())
    }

    #[test]
    fn changes_of_a_hook_are_reproducible() -> Result<()> {
        if !may_run() {
            return Ok(());
        }
        let bench = Bench::new(
            "#!/bin/sh\nset -e\necho made >/etc/made\nchmod 0640 /etc/made\nrm /etc/gone\n\
             echo state >/var/lib/state\nls /run/package/hooks >/etc/package\n\
             (uname -n; id -u; ls /dev /proc/self/net/dev; echo $PATH $SOURCE_DATE_EPOCH $FIRSTLIGHT_PACKAGE; echo $$) >/etc/seen\n\
             (sleep 600 &)\n",
        )?;
        let root = root()?;
        let made = bench.run(&root)?;
        assert_eq!(made.read("etc/made")?, b"made\n");
        let entry = made.get("etc/made").context("made")?;
        assert_eq!(
            (entry.mode, entry.uid, entry.mtime),
            (0o640, 0, debian_tree::SOURCE_DATE_EPOCH)
        );
        assert!(made.get("etc/gone").is_none() && made.get("run/package").is_none());
        assert_eq!(made.read("etc/kept")?, b"kept\n");
        assert_eq!(made.read(&format!("{STATE}/lib/state"))?, b"state\n");
        assert_eq!(made.read("etc/package")?, b"build\n");
        let seen = String::from_utf8(made.read("etc/seen")?)?;
        assert!(seen.starts_with("firstlight\n0\n"), "{seen}");
        assert!(seen.contains("/run/package\n1\n"), "{seen}");
        assert!(!seen.contains("sda"), "{seen}");
        assert!(written(&made)? == written(&bench.run(&root)?)?);
        Ok(())
    }

    #[test]
    fn failed_hook_is_reported_with_its_output() -> Result<()> {
        if !may_run() {
            return Ok(());
        }
        let bench = Bench::new("#!/bin/sh\necho working\necho 'no such firmware' >&2\nexit 7\n")?;
        let output = format!("{:#}", bench.run(&root()?).expect_err("exit status 7"));
        assert_eq!(
            output,
            "running the package's hook inside the root: running `hooks/build`: exit status: 7\n  \
             working\n  no such firmware"
        );
        let bench = Bench::new("#!/bin/sh\necho x >/run/package/x\n")?;
        let output = format!("{:#}", bench.run(&root()?).expect_err("read-only"));
        assert!(output.contains("Read-only file system"), "{output}");
        Ok(())
    }
}
