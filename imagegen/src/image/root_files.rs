//! Files, units and folders that imagegen adds to Debian's base or removes from it.

use anyhow::{Context as _, Result};
use userdata::contract;
use userdata::image_info::ImageInfo;

use super::archive::Archive;

/// Debian packages of the root: what kubelet, kube-proxy, the runtime and an operator at the
/// console need.
pub(super) const PACKAGES: &[&str] = &[
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
    "tzdata",
];

/// The folder that becomes `/var` on first boot.
pub(super) const STATE: &str = "usr/share/firstlight/state";

/// Path, mode and contents of files from this repository.
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
        "usr/lib/systemd/system/docker-.scope.d/firstlight.conf",
        0o644,
        include_str!("../../assets/root/containers.conf"),
    ),
    (
        "usr/lib/systemd/system/docker.service.d/firstlight.conf",
        0o644,
        include_str!("../../assets/docker/drop-in.conf"),
    ),
    (
        "usr/lib/systemd/system/kubelet.service.d/20-firstlight.conf",
        0o600,
        include_str!("../../assets/root/kubelet.conf"),
    ),
    (
        "etc/resolv.conf",
        0o644,
        include_str!("../../assets/root/resolv.conf"),
    ),
    (
        "usr/lib/systemd/system/opt.mount",
        0o644,
        include_str!("../../assets/root/opt.mount"),
    ),
    (
        "usr/lib/systemd/system/usr-libexec-kubernetes.mount",
        0o644,
        include_str!("../../assets/root/usr-libexec-kubernetes.mount"),
    ),
    ("etc/hosts", 0o644, include_str!("../../assets/root/hosts")),
    ("etc/hostname", 0o644, "firstlight\n"),
    // systemd lifts a clock that is behind the date of this file: a machine without a clock, or
    // with an empty battery, would be in 1970, before every certificate.
    ("usr/lib/clock-epoch", 0o644, ""),
    // Empty instead of absent: systemd generates an id, but does not take this boot for a first
    // one.
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
        "usr/lib/systemd/system/firstboot-status.path",
        0o644,
        include_str!("../../../firstboot/systemd/firstboot-status.path"),
    ),
    (
        "usr/lib/systemd/system/firstboot-status.service",
        0o644,
        include_str!("../../../firstboot/systemd/firstboot-status.service"),
    ),
    (
        "usr/share/firstlight/lvscare.yaml",
        0o644,
        include_str!("../../../lvscare/deploy/pod.yaml"),
    ),
];

/// Target and unit of what starts at boot, beside the container runtime. kubelet is absent:
/// firstboot starts it once it is configured.
const ENABLED: &[(&str, &str)] = &[
    ("multi-user.target", "firstboot.service"),
    ("paths.target", "firstboot-status.path"),
    ("multi-user.target", "systemd-networkd.service"),
];

/// Debian's units that a node does not need.
const MASKED: &[&str] = &[
    "systemd-firstboot.service",            // prompts on the console
    "systemd-networkd-wait-online.service", // firstboot waits for the one address it needs
    "systemd-pcrphase.service",
    "e2scrub_all.timer", // no LVM
    "e2scrub_reap.service",
    "dpkg-db-backup.timer", // there is no dpkg database
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "systemd-ask-password-wall.path", // ends the agent of the consoles, which firstboot asks
    "ssh.socket",                     // firstboot enables ssh.service if the document has keys
];

/// Parts of Debian's root that differ by build or host, or have no use in an image that is replaced
/// instead of updated.
pub(super) const REMOVED: &[&str] = &[
    "boot",
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "var",
    "root",
    "home",
    "mnt",
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

/// Path and mode of folders in the root: mount points, and folders that programs expect.
const FOLDERS: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("proc", 0o555),
    ("sys", 0o555),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("boot", 0o755),
    ("opt/cni/bin", 0o755),
    ("usr/libexec/kubernetes", 0o755),
    ("etc/cni/net.d", 0o755),
    ("etc/kubernetes/manifests", 0o755),
    ("etc/sudoers.d", 0o750),
    // virt-install's documents write a file there, for an image with cloud-init.
    ("etc/cloud", 0o755),
];

/// Path and mode of folders below [`STATE`].
const STATE_FOLDERS: &[(&str, u32)] = &[
    ("log", 0o755),
    ("tmp", 0o1777),
    ("lib/systemd", 0o755),
    ("lib/kubelet", 0o755),
    ("lib/firstlight/etc/upper", 0o755),
    ("lib/firstlight/etc/work", 0o755),
    ("roothome", 0o700),
    ("home", 0o755),
    ("mnt", 0o755),
    ("log/journal", 0o755),
];

/// Path and target of symlinks.
const SYMLINKS: &[(&str, &str)] = &[
    ("root", "var/roothome"),
    ("home", "var/home"),
    // Documents mount their disks there.
    ("mnt", "var/mnt"),
    // Without them pods could not install what they bring.
    (
        "usr/lib/systemd/system/firstboot.service.requires/opt.mount",
        "../opt.mount",
    ),
    (
        "usr/lib/systemd/system/firstboot.service.requires/usr-libexec-kubernetes.mount",
        "../usr-libexec-kubernetes.mount",
    ),
    // Where Debian's programs look for CNI plugins.
    ("usr/lib/cni", "../../opt/cni/bin"),
    // The initrd mounts /var, so no entry of /etc/fstab can ask for it: systemd-repart makes the
    // state partition as large as the disk, and this its file system.
    (
        "usr/lib/systemd/system/local-fs.target.wants/systemd-growfs@var.service",
        "../systemd-growfs@.service",
    ),
    // The generator opens sshd to local sockets and to the hypervisor, even if a document has no
    // keys.
    (
        "etc/systemd/system-generators/systemd-ssh-generator",
        "/dev/null",
    ),
];

/// Adds everything of this module to `root`, and `info` for firstboot.
pub(super) fn add(root: &mut Archive, info: &ImageInfo) -> Result<()> {
    for (path, mode, contents) in FILES {
        root.file(path, *mode, contents.as_bytes());
    }
    for (path, mode) in FOLDERS {
        root.directory(path, *mode);
    }
    for (path, mode) in STATE_FOLDERS {
        root.directory(&format!("{STATE}/{path}"), *mode);
    }
    for (path, target) in SYMLINKS {
        root.symlink(path, target);
    }
    let runtime = ("multi-user.target", info.runtime.unit());
    for (target, unit) in ENABLED.iter().chain([&runtime]) {
        root.symlink(
            &format!("usr/lib/systemd/system/{target}.wants/{unit}"),
            &format!("../{unit}"),
        );
    }
    for unit in MASKED {
        root.symlink(&format!("etc/systemd/system/{unit}"), "/dev/null");
    }
    let info = serde_json::to_vec_pretty(info).context("writing the image info")?;
    root.file(contract::IMAGE_FILE, 0o644, info);
    Ok(())
}

/// The part of the image's key that this module decides.
pub(super) fn recipe() -> String {
    let files = (PACKAGES, FILES, REMOVED);
    let units = (ENABLED, MASKED);
    let folders = (STATE, FOLDERS, STATE_FOLDERS, SYMLINKS);
    format!("{:?}", (files, units, folders))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The upper layer of each mount is made before it, and its lower one is in the image.
    #[test]
    fn folders_that_pods_write_to_have_both_layers() {
        let text = |path: &str| {
            let file = FILES.iter().find(|(own, _, _)| *own == path);
            file.map_or("", |(_, _, text)| *text)
        };
        let tmpfiles = text("usr/lib/tmpfiles.d/firstlight.conf");
        for (unit, folder) in [
            ("opt.mount", "opt/cni/bin"),
            ("usr-libexec-kubernetes.mount", "usr/libexec/kubernetes"),
        ] {
            let unit = text(&format!("usr/lib/systemd/system/{unit}"));
            let options = unit.lines().find_map(|line| line.strip_prefix("Options="));
            let options = options.expect("a mount has options");
            for part in options.split(',').skip(1) {
                let path = part.split_once('=').expect("a layer").1;
                assert!(tmpfiles.contains(&format!("d {path} ")), "{path}");
            }
            assert!(FOLDERS.iter().any(|(own, _)| *own == folder), "{folder}");
        }
    }

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
