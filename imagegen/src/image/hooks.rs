//! The package's hook of build time: a program that changes the root before it is sealed.
//!
//! It runs as root with the image's root as its root, once for an image and never on a node. What it finds is the same
//! each time, so that an image with a hook is as reproducible as the hook itself: a fixed environment, host name and
//! devices, no network, no process but its own. That is order, not a cage: whoever bakes a package trusts it.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::archive::{Archive, Placed};
use super::root::STATE;
use crate::package::BUILD_HOOK;
use build_tools::debian_tree;
use build_tools::process;
use build_tools::progress::Stage;

/// Where the hook finds its package, read-only.
const PACKAGE: &str = "/run/package";

/// What the hook has around it, made in namespaces that vanish with it. `$1` is the root, `$2` the package.
const SURROUNDINGS: &str = r#"set -e
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
# What becomes /var on first boot.
mount --bind "$1/STATE" "$1/var"
exec setpriv --bounding-set=-mknod,-sys_boot,-sys_module,-sys_rawio,-sys_time -- chroot "$1" "/run/package/$3"
"#;

/// The root as the package's hook leaves it. `package` is the unpacked package, `tar` gives the program tar. A hook that
/// fails is an error with its last words; `work` then holds what it left, and is for the caller to remove.
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
    unpack.args(["--extract", "--numeric-owner", "--same-owner"]);
    unpack.args([
        "--preserve-permissions",
        "--xattrs",
        "--xattrs-include=*",
        "--file",
    ]);
    process::run(unpack.arg(&before).arg("--directory").arg(&folder))?;
    remove(&before)?;

    stage.at(BUILD_HOOK);
    process::watch(BUILD_HOOK, &mut hook(&folder, package), |line| {
        stage.at(format_args!("{BUILD_HOOK}: {line}"));
        log::info!("{BUILD_HOOK}: {line}");
    })
    .context("running the package's hook inside the root")?;

    let mut pack = tar()?;
    pack.args([
        "--create",
        "--numeric-owner",
        "--sort=name",
        "--format=posix",
    ]);
    // The building host's labels are not the image's.
    pack.args([
        "--xattrs",
        "--xattrs-include=*",
        "--xattrs-exclude=security.selinux",
    ]);
    pack.args(["--pax-option=delete=atime,delete=ctime", "--file"]);
    process::run(pack.arg(&after).arg("--directory").arg(&folder).arg("."))?;
    fs::remove_dir_all(&folder).with_context(|| format!("removing `{}`", folder.display()))?;

    let file = File::open(&after).with_context(|| format!("opening `{}`", after.display()))?;
    // Its contents are read as long as it is open.
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
    // What the hook leaves running ends with it.
    command.args(["--pid", "--fork", "--kill-child", "--", "sh", "-c"]);
    command.arg(SURROUNDINGS.replace("STATE", STATE)).arg("sh");
    command.arg(root).arg(package).arg(BUILD_HOOK);
    debian_tree::set_environment(&mut command);
    command.env("FIRSTLIGHT_PACKAGE", PACKAGE);
    command
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("removing `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;
    use build_tools::progress::Progress;

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

    /// The smallest root that runs a shell: this host's own, with the libraries that it loads.
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
            let said = process::output(Command::new("ldd").arg(&path))?;
            for word in String::from_utf8_lossy(&said).split_whitespace() {
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
            let reason = "hooks run in a changed root, which needs root";
            assert!(
                std::env::var_os("FIRSTLIGHT_NO_SKIP").is_none_or(|value| value != "1"),
                "skipped: {reason}"
            );
            eprintln!("skipped: {reason}");
        }
        may
    }

    #[test]
    fn a_hook_that_does_nothing_changes_nothing() -> Result<()> {
        if !may_run() {
            return Ok(());
        }
        let root = root()?;
        let same = Bench::new("#!/bin/sh\n")?.run(&root)?;
        assert!(written(&root)? == written(&same)?);
        Ok(())
    }

    #[test]
    fn what_a_hook_does_is_in_the_root_and_the_same_each_time() -> Result<()> {
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
    fn a_hook_that_fails_is_named_with_its_last_words() -> Result<()> {
        if !may_run() {
            return Ok(());
        }
        let bench = Bench::new("#!/bin/sh\necho working\necho 'no such firmware' >&2\nexit 7\n")?;
        let said = format!("{:#}", bench.run(&root()?).expect_err("exit status 7"));
        assert_eq!(
            said,
            "running the package's hook inside the root: running `hooks/build`: exit status: 7\n  working\n  no such firmware"
        );
        let bench = Bench::new("#!/bin/sh\necho x >/run/package/x\n")?;
        let said = format!("{:#}", bench.run(&root()?).expect_err("read-only"));
        assert!(said.contains("Read-only file system"), "{said}");
        Ok(())
    }
}
