//! What stands in the root file system: Debian's base, the package, our programs, and the settings that join them.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use userdata::image_info::ImageInfo;

use super::archive::{Archive, Placed};

/// Debian packages of the root: what kubelet, kube-proxy, the runtime and an operator at the console need.
pub const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "systemd-repart",
    "systemd-timesyncd",
    "udev",
    "dbus",
    "dbus-broker",
    "kmod",
    "login",
    "passwd",
    "util-linux",
    "mount",
    "e2fsprogs",
    "dosfstools",
    "procps",
    "iproute2",
    "iputils-ping",
    "iptables",
    "ipset",
    "ipvsadm",
    "conntrack",
    "ethtool",
    "socat",
    "ebtables",
    "netbase",
    "ca-certificates",
    "libseccomp2",
    "openssh-server",
    "sudo",
];

/// The folder that becomes `/var` on first boot.
pub(super) const STATE: &str = "usr/share/firstlight/state";

/// Files of ours: (path, mode, contents).
const FILES: &[(&str, u32, &str)] = &[
    (
        "usr/lib/repart.d/50-state.conf",
        0o644,
        include_str!("../../assets/root/state.repart.conf"),
    ),
    (
        "usr/lib/modules-load.d/firstlight.conf",
        0o644,
        include_str!("../../assets/root/modules-load.conf"),
    ),
    (
        "usr/lib/sysctl.d/60-firstlight.conf",
        0o644,
        include_str!("../../assets/root/sysctl.conf"),
    ),
    (
        "usr/lib/tmpfiles.d/firstlight.conf",
        0o644,
        include_str!("../../assets/root/tmpfiles.conf"),
    ),
    (
        "usr/lib/systemd/system/cri-containerd-.scope.d/firstlight.conf",
        0o644,
        include_str!("../../assets/root/containers.conf"),
    ),
    (
        "etc/resolv.conf",
        0o644,
        include_str!("../../assets/root/resolv.conf"),
    ),
    ("etc/hosts", 0o644, include_str!("../../assets/root/hosts")),
    ("etc/hostname", 0o644, "firstlight\n"),
    // Empty, and not absent: systemd then makes an id of its own without treating the boot as an unconfigured system's.
    ("etc/machine-id", 0o444, ""),
    (
        "etc/fstab",
        0o644,
        "# The initrd mounts root, /var and /etc.\n",
    ),
    (
        "usr/lib/systemd/system/firstboot.service",
        0o644,
        include_str!("../../../firstboot/systemd/firstboot.service"),
    ),
    (
        "usr/lib/systemd/system/firstboot-status.socket",
        0o644,
        include_str!("../../../firstboot/systemd/firstboot-status.socket"),
    ),
    (
        "usr/lib/systemd/system/firstboot-status@.service",
        0o644,
        include_str!("../../../firstboot/systemd/firstboot-status@.service"),
    ),
    (
        "usr/share/firstlight/lvscare.yaml",
        0o644,
        include_str!("../../../lvscare/deploy/pod.yaml"),
    ),
];

/// Units that start by themselves. kubelet is not among them: firstboot starts it once it is configured.
const ENABLED: &[(&str, &str)] = &[
    ("multi-user.target", "firstboot.service"),
    ("multi-user.target", "containerd.service"),
    ("sockets.target", "firstboot-status.socket"),
    ("multi-user.target", "systemd-networkd.service"),
];

/// Units of Debian's that have nothing to do here, with the reason.
const MASKED: &[&str] = &[
    "systemd-firstboot.service",            // asks questions at the console
    "systemd-networkd-wait-online.service", // firstboot waits for the one address it needs
    "systemd-pcrphase.service",
    "e2scrub_all.timer", // no LVM
    "e2scrub_reap.service",
    "dpkg-db-backup.timer", // there is no dpkg database
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "ssh.socket", // firstboot enables ssh.service if the document has keys
];

/// Parts of Debian's root that are of one build or one host, or of no use in an image that is replaced and not updated.
const REMOVED: &[&str] = &[
    "boot",
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "var",
    "root",
    "home",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "etc/apt",
    "etc/ssh/ssh_host_rsa_key",
    "etc/ssh/ssh_host_rsa_key.pub",
    "etc/ssh/ssh_host_ecdsa_key",
    "etc/ssh/ssh_host_ecdsa_key.pub",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "etc/systemd/system/multi-user.target.wants",
    "etc/systemd/system/timers.target.wants",
    "etc/systemd/system/sockets.target.wants",
    // Aliases and dependencies of a unit that is enabled. The image ships ssh.service disabled.
    "etc/systemd/system/sshd.service",
    "etc/systemd/system/ssh.service.wants",
    "etc/systemd/system/sshd.service.wants",
    "etc/systemd/system/sshd@.service.wants",
    "etc/systemd/system/ssh.socket.wants",
    "etc/resolv.conf",
    "etc/hostname",
    "etc/machine-id",
    "etc/mtab",
];

/// Our own words in the root, by path: part of what decides an image's bytes.
pub fn sources() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().map(|(path, _, text)| (*path, *text))
}

/// Where everything comes from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Debian's base as a tar file.
    pub base: &'a Path,
    /// `usr/lib/modules/<release>` of the kernel that boots the image.
    pub modules: &'a Path,
    pub release: &'a str,
    /// The package, unpacked.
    pub package: &'a Path,
    /// firstboot and lvscare, static.
    pub programs: &'a Path,
    pub facts: &'a ImageInfo,
    /// For what is unpacked on the way.
    pub work: &'a Path,
}

/// The whole root but for the container images: those are [`store`](super::store)'s.
pub fn compose(inputs: &Inputs<'_>) -> Result<Archive> {
    let mut root = Archive::default();
    base(&mut root, inputs.base)?;
    root.host_folder(
        &format!("usr/lib/modules/{}", inputs.release),
        inputs.modules,
    )?;
    runtime(&mut root, inputs)?;
    package(&mut root, inputs)?;
    for program in super::programs::NAMES {
        root.host_file(
            &format!("usr/bin/{program}"),
            0o755,
            &inputs.programs.join(program),
        )?;
    }
    settings(&mut root, inputs.facts)?;
    Ok(root)
}

fn base(root: &mut Archive, tar: &Path) -> Result<()> {
    let file = Arc::new(File::open(tar).with_context(|| format!("opening `{}`", tar.display()))?);
    root.add_tar(&file, |path| Some(Placed::At(path.to_owned())))?;
    for path in REMOVED {
        root.remove(path);
    }
    Ok(())
}

/// The container runtime out of the package's `containerd/` or `docker/` archive: programs to /usr/bin, CNI plug-ins to
/// /usr/lib/cni, whatever folders the archive has around them.
fn runtime(root: &mut Archive, inputs: &Inputs<'_>) -> Result<()> {
    let mut found = Vec::new();
    for folder in ["containerd", "docker"] {
        let path = inputs.package.join(folder);
        let Ok(entries) = std::fs::read_dir(&path) else {
            continue;
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("reading `{}`", path.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
                found.push(format!("{folder}/{name}"));
            }
        }
    }
    found.sort();
    let [archive] = found.as_slice() else {
        bail!(
            "the package needs one `containerd/*.tar.gz` or `docker/*.tgz`; it has {}",
            found.len()
        );
    };
    // Errors call it by its name in the package: the folder is gone when they are read.
    let unpacking = || format!("unpacking `{archive}` of the package");
    let unpacked = gunzip(&inputs.package.join(archive), inputs.work).with_context(unpacking)?;
    let unpacked = Arc::new(unpacked);
    root.add_tar(&unpacked, |path| {
        let (folder, name) = path.rsplit_once('/')?;
        let place = match folder.rsplit('/').next() {
            Some("bin") if folder.ends_with("cni/bin") => format!("usr/lib/cni/{name}"),
            Some("bin" | "sbin" | "docker") => format!("usr/bin/{name}"),
            _ => return None,
        };
        Some(Placed::At(place))
    })
    .with_context(unpacking)?;
    for program in ["containerd", "runc"] {
        if root.get(&format!("usr/bin/{program}")).is_none() {
            bail!("`{archive}` of the package holds no `{program}`");
        }
    }
    Ok(())
}

fn gunzip(archive: &Path, work: &Path) -> Result<File> {
    let mut input = BufReader::new(File::open(archive)?);
    let mut out = tempfile::tempfile_in(work).context("creating a temporary file")?;
    if input.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        std::io::copy(&mut flate2::bufread::MultiGzDecoder::new(input), &mut out)?;
    } else {
        std::io::copy(&mut input, &mut out)?;
    }
    Ok(out)
}

/// `bin/` and `conf/` of the package.
fn package(root: &mut Archive, inputs: &Inputs<'_>) -> Result<()> {
    let bin = inputs.package.join("bin");
    for entry in std::fs::read_dir(&bin).with_context(|| format!("reading `{}`", bin.display()))? {
        let path = entry
            .with_context(|| format!("reading `{}`", bin.display()))?
            .path();
        if let (true, Some(name)) = (path.is_file(), path.file_name().and_then(|n| n.to_str())) {
            root.host_file(&format!("usr/bin/{name}"), 0o755, &path)?;
        }
    }
    let conf = inputs.package.join("conf");
    root.directory(userdata::contract::CONF_DIR, 0o755);
    root.host_folder(userdata::contract::CONF_DIR.trim_start_matches('/'), &conf)?;
    let units = "usr/lib/systemd/system";
    let required = [
        ("kubelet.service", format!("{units}/kubelet.service")),
        (
            "10-kubeadm.conf",
            format!("{units}/kubelet.service.d/10-kubeadm.conf"),
        ),
        ("containerd.service", format!("{units}/containerd.service")),
        (
            "containerd-config.toml",
            "etc/containerd/config.toml".to_owned(),
        ),
    ];
    for (name, place) in required {
        root.host_file(&place, 0o644, &conf.join(name))
            .with_context(|| format!("the package has no `conf/{name}`"))?;
    }
    if conf.join("crictl.yaml").is_file() {
        root.host_file("etc/crictl.yaml", 0o644, &conf.join("crictl.yaml"))?;
    }
    let hooks = inputs.package.join("hooks");
    if hooks.is_dir() {
        root.host_folder(
            userdata::contract::HOOKS_DIR.trim_start_matches('/'),
            &hooks,
        )?;
    }
    Ok(())
}

fn settings(root: &mut Archive, facts: &ImageInfo) -> Result<()> {
    for (path, mode, contents) in FILES {
        root.file(path, *mode, contents.as_bytes());
    }
    // Mount points, and names that lead into state.
    for (path, mode) in [
        ("dev", 0o755),
        ("proc", 0o555),
        ("sys", 0o555),
        ("run", 0o755),
        ("tmp", 0o1777),
        ("var", 0o755),
        ("boot", 0o755),
    ] {
        root.directory(path, mode);
    }
    for (path, mode) in [
        ("log", 0o755),
        ("tmp", 0o1777),
        ("lib/systemd", 0o755),
        ("lib/kubelet", 0o755),
        ("lib/firstlight/etc/upper", 0o755),
        ("lib/firstlight/etc/work", 0o755),
        ("roothome", 0o700),
        ("home", 0o755),
        ("log/journal", 0o755),
    ] {
        root.directory(&format!("{STATE}/{path}"), mode);
    }
    root.symlink("root", "var/roothome");
    root.symlink("home", "var/home");
    root.directory("opt/cni", 0o755);
    root.symlink("opt/cni/bin", "../../usr/lib/cni");
    root.directory("etc/cni/net.d", 0o755);
    root.directory("etc/kubernetes/manifests", 0o755);
    for (target, unit) in ENABLED {
        root.symlink(
            &format!("usr/lib/systemd/system/{target}.wants/{unit}"),
            &format!("../{unit}"),
        );
    }
    for unit in MASKED {
        root.symlink(&format!("etc/systemd/system/{unit}"), "/dev/null");
    }
    // It opens sshd to local sockets and to the hypervisor, whether a document has keys or not.
    root.symlink(
        "etc/systemd/system-generators/systemd-ssh-generator",
        "/dev/null",
    );
    let facts = serde_json::to_vec_pretty(facts).context("writing the image file")?;
    root.file(userdata::contract::IMAGE_FILE, 0o644, facts);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked unit cannot be enabled or started.
    #[test]
    fn units_that_firstboot_starts_are_not_masked() {
        for unit in [
            "containerd.service",
            "kubelet.service",
            "ssh.service",
            "systemd-timesyncd.service",
        ] {
            assert!(!MASKED.contains(&unit), "{unit}");
        }
    }

    #[test]
    fn ssh_server_is_off_until_firstboot_enables_it() {
        assert!(ENABLED.iter().all(|(_, unit)| !unit.contains("ssh")));
        for path in [
            "etc/systemd/system/multi-user.target.wants",
            "etc/systemd/system/sshd.service",
        ] {
            assert!(REMOVED.contains(&path), "{path}");
        }
    }
}
