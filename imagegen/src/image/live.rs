//! The parts of a machine that boots without a disk of its own: kernel, an initrd that gets root
//! and hash tree from a web server or a boot medium, and their command lines.
//!
//! The command line has the root hash, so that nothing of a root runs that is not this image's,
//! wherever it comes from.

use std::path::Path;

use anyhow::{Context as _, Result};
use build_tools::cache::Cache;
use build_tools::debian_tree::{Spec, Tree};
use build_tools::progress::Progress;

use super::{initrd, uki};
use crate::digest::digest_file;
use crate::plan::ImagePlan;

/// Names of files in `pxe/`.
pub const KERNEL: &str = "vmlinuz";
pub const INITRD: &str = "initrd";
pub const ROOT: &str = "root.erofs";
pub const TREE: &str = "root.verity";
/// The kernel's arguments without the place of the root.
pub const CMDLINE: &str = "cmdline";
/// The script for iPXE from a foreign web server.
pub const SCRIPT: &str = "boot.ipxe";
/// iPXE, which uses the firmware's network driver.
pub const LOADER: &str = "snponly.efi";
/// Of the medium that `imagegen iso` makes.
pub const MEDIUM: &str = "medium.efi";
/// Of the disk that `firstboot install` makes.
pub const DISK: &str = "disk.efi";
/// All, in the order in which they are made.
pub const FILES: &[&str] = &[
    KERNEL, INITRD, ROOT, TREE, CMDLINE, SCRIPT, LOADER, MEDIUM, DISK,
];

/// The place of the root that stands for the medium that booted.
const FROM_MEDIUM: &str = "medium";

const INITRD_FILES: &[(&str, &str)] = &[
    (
        "usr/lib/systemd/system/firstlight-root.service",
        include_str!("../../assets/live/firstlight-root.service"),
    ),
    (
        "usr/lib/systemd/system/firstlight-state.service",
        include_str!("../../assets/live/firstlight-state.service"),
    ),
    (
        "usr/lib/systemd/system/sysroot-var.mount.d/live.conf",
        include_str!("../../assets/live/var.conf"),
    ),
    (
        "usr/lib/systemd/system/systemd-repart.service.d/live.conf",
        include_str!("../../assets/live/repart.conf"),
    ),
    (
        "usr/lib/systemd/system/initrd-root-device.target.d/live.conf",
        "[Unit]\nWants=firstlight-root.service\n",
    ),
    (
        "usr/lib/systemd/network/10-wired.network",
        include_str!("../../assets/live/wired.network"),
    ),
];

/// dracut's module with the drivers of network cards. Not its `systemd-networkd`, which brings
/// `base` and a second way to configure the network.
const MODULES: &str = "kernel-network-modules";

/// systemd-networkd, loop devices of root and tree, and a file system in memory.
const INSTALL: &str = "losetup modprobe mkfs.ext4 udevadm \
                       /usr/lib/systemd/systemd-networkd \
                       /usr/lib/systemd/system/systemd-networkd.service \
                       /usr/lib/systemd/system/systemd-networkd.socket \
                       /usr/lib/systemd/network/99-default.link";

/// Optical drives and virtual media of a BMC. dracut's `kernel-modules` has USB, as far as the
/// kernel has it.
const DRIVERS: &str = "isofs sr_mod cdrom";

const SCRIPT_TEXT: &str = include_str!("../../assets/live/boot.ipxe");

/// The kernel's arguments of a machine whose root is behind loop devices. `firstlight.root=` is
/// still missing. `disk` is the SHA-256 of the EFI program that boots a disk.
pub fn cmdline(root_hash: &str, disk: &str, plan: &ImagePlan) -> String {
    let mut first = vec![
        format!("roothash={root_hash}"),
        "systemd.verity_root_data=/dev/disk/by-loop-ref/firstlight-root".to_owned(),
        "systemd.verity_root_hash=/dev/disk/by-loop-ref/firstlight-tree".to_owned(),
        // The loop devices appear after a download of any length.
        "systemd.default_device_timeout_sec=0".to_owned(),
        format!("firstlight.disk={disk}"),
    ];
    for (wanted, word) in [
        (plan.diskless.blank_disks, "firstlight.blank-disk=yes"),
        (plan.diskless.memory_masters, "firstlight.memory-master=yes"),
    ] {
        first.extend(wanted.then(|| word.to_owned()));
    }
    uki::words(&first, &plan.console, &plan.cmdline)
}

/// What the parts are made of.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub tools: &'a Tree,
    pub release: &'a str,
    pub plan: &'a ImagePlan,
    pub root_hash: &'a str,
    /// Sign the EFI program of a medium.
    pub keys: uki::Keys<'a>,
    /// The folder of the static programs.
    pub programs: &'a Path,
    /// Makes the Debian tree of iPXE.
    pub cache: &'a Cache,
    /// For intermediate files.
    pub work: &'a Path,
}

/// Writes kernel, initrd, iPXE, scripts and the medium's EFI program to the folder `out`, which has
/// the EFI program of a disk already.
pub fn write(inputs: &Inputs<'_>, out: &Path, progress: &Progress) -> Result<()> {
    let Inputs {
        tools,
        release,
        work,
        ..
    } = *inputs;
    let stage = progress.stage("initrd for the network");
    let firstboot = inputs.programs.join("firstboot");
    let additions = initrd::Additions {
        files: INITRD_FILES.to_vec(),
        programs: vec![("usr/bin/firstboot", &firstboot)],
        modules: MODULES.to_owned(),
        install: INSTALL.to_owned(),
        drivers: DRIVERS.to_owned(),
    };
    let initrd = initrd::build_with(tools, release, INITRD, &additions, inputs.plan, work)?;
    stage.done();
    let stage = progress.stage("kernel image for media");
    let disk = digest_file(&out.join(DISK))?;
    let disk = disk.trim_start_matches("sha256:");
    let line = cmdline(inputs.root_hash, disk, inputs.plan);
    let medium = format!("{line} firstlight.root={FROM_MEDIUM}");
    let os_release = std::fs::read(tools.path().join("usr/lib/os-release"))
        .context("reading the `os-release` of the tools tree")?;
    let contents = uki::Contents {
        release,
        initrd: &initrd,
        cmdline: &medium,
        os_release: &os_release,
    };
    let medium = uki::build(tools, &contents, inputs.keys, work)?;
    stage.done();
    let kernel = tools.path().join(format!("boot/vmlinuz-{release}"));
    let loader = tree(inputs.cache, progress)?.path().join("usr/lib/ipxe");
    for (from, name) in [
        (kernel, KERNEL),
        (initrd, INITRD),
        (medium, MEDIUM),
        (loader.join(LOADER), LOADER),
    ] {
        copy(&from, &out.join(name))?;
    }
    let script = SCRIPT_TEXT.replace("CMDLINE", &line);
    for (name, text) in [(CMDLINE, line + "\n"), (SCRIPT, script)] {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing `{}`", path.display()))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    // Not `fs::copy`, which keeps a mode that only root can read.
    let mut source =
        std::fs::File::open(from).with_context(|| format!("opening `{}`", from.display()))?;
    std::fs::File::create_new(to)
        .and_then(|mut file| std::io::copy(&mut source, &mut file))
        .with_context(|| format!("writing `{}`", to.display()))?;
    Ok(())
}

/// The Debian tree with iPXE, dnsmasq and xorriso.
pub fn tree(cache: &Cache, progress: &Progress) -> Result<Tree> {
    Tree::ensure(cache, &spec(), progress)
}

fn spec() -> Spec {
    let packages = ["ipxe", "dnsmasq-base", "xorriso"];
    Spec::new("network boot", "trixie", "extract", &packages)
}

/// What decides the parts besides the image.
pub fn recipe() -> String {
    let initrd = (INITRD_FILES, MODULES, INSTALL, DRIVERS);
    format!("{:?}", (initrd, SCRIPT_TEXT, FROM_MEDIUM, spec()))
}
