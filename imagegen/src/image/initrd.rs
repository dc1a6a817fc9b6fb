//! The initrd: finds the verified root, makes and mounts state, and switches over. Built by dracut from the tools tree,
//! for any machine and not for the building one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use build_tools::debian_tree::Tree;
use build_tools::process;

/// What the initrd brings besides dracut's modules: (path in the initrd, contents).
const FILES: &[(&str, &str)] = &[
    (
        "usr/lib/systemd/system/sysroot-var.mount",
        include_str!("../../assets/initrd/sysroot-var.mount"),
    ),
    (
        "usr/lib/systemd/system/sysroot-etc.mount",
        include_str!("../../assets/initrd/sysroot-etc.mount"),
    ),
    (
        "usr/lib/systemd/system/systemd-repart.service.d/firstlight.conf",
        include_str!("../../assets/initrd/repart.conf"),
    ),
];

/// Our own words in the initrd, by path: part of what decides an image's bytes.
pub fn sources() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().copied()
}

/// Units that the initrd waits for before it hands over.
const WANTED: &[&str] = &["sysroot-var.mount", "sysroot-etc.mount"];

/// dracut's modules. `kernel-modules` brings the drivers of all disks and their controllers.
const MODULES: &str = "systemd systemd-initrd systemd-udevd systemd-modules-load systemd-veritysetup systemd-repart \
                       kernel-modules dm fs-lib udev-rules shutdown";

/// Kernel modules by name, for what udev does not load by itself before it is needed.
const DRIVERS: &str = "erofs overlay ext4 dm-verity loop vfat nls_ascii nls_cp437 virtio_blk virtio_pci virtio_scsi \
                       virtio_console sd_mod nvme ahci";

/// Builds the initrd for kernel `release` as `work/initrd`; returns its path.
pub fn build(tools: &Tree, release: &str, work: &Path) -> Result<PathBuf> {
    let extra = work.join("initrd-files");
    let system = extra.join("usr/lib/systemd/system");
    for (path, contents) in FILES {
        let file = extra.join(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("creating `{}`", folder.display()))?;
        }
        fs::write(&file, contents).with_context(|| format!("writing `{}`", file.display()))?;
    }
    let wants = system.join("initrd-fs.target.requires");
    fs::create_dir_all(&wants).with_context(|| format!("creating `{}`", wants.display()))?;
    for unit in WANTED {
        let link = wants.join(unit);
        if fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink(format!("../{unit}"), &link)
                .with_context(|| format!("linking `{}`", link.display()))?;
        }
    }

    let mut dracut = tools.chroot(&[(work, "/tmp/work")], "dracut")?;
    dracut.args([
        "--force",
        "--quiet",
        "--reproducible",
        "--no-hostonly",
        "--no-hostonly-cmdline",
        "--no-early-microcode",
    ]);
    dracut.args([
        "--kver",
        release,
        "--modules",
        MODULES,
        "--add-drivers",
        DRIVERS,
    ]);
    dracut.args(["--install", "mkfs.ext4 mke2fs /etc/mke2fs.conf"]);
    dracut.args(["--include", "/tmp/work/initrd-files", "/"]);
    // zstd unpacks several times faster than xz, and here every second of boot counts more than a megabyte.
    dracut.args(["--compress", "zstd -15 -T1"]);
    dracut.arg("/tmp/work/initrd");
    process::run(&mut dracut)?;
    Ok(work.join("initrd"))
}
