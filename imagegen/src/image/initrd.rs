//! The initrd: finds the verified root, creates and mounts the state partition, and switches root.
//! dracut builds it from the tools tree for any machine, not for the build host.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use build_tools::debian_tree::Tree;
use build_tools::process;

use super::sealed;
use crate::plan::ImagePlan;

/// Path and contents of files besides dracut's modules.
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
    // In etc, so that it is used in place of the shell that Debian starts.
    (
        "etc/systemd/system/emergency.service",
        include_str!("../../assets/initrd/emergency.service"),
    ),
];

/// Units that the initrd waits for before it switches root.
const REQUIRED: &[&str] = &["sysroot-var.mount", "sysroot-etc.mount"];

/// dracut's modules. `kernel-modules` has the drivers of all disks and their controllers.
const MODULES: &str = "systemd systemd-initrd systemd-udevd systemd-modules-load \
                       systemd-veritysetup systemd-repart kernel-modules dm fs-lib udev-rules \
                       shutdown";

/// Kernel modules that udev does not load in time.
const DRIVERS: &str = "erofs overlay ext4 dm-verity loop vfat nls_ascii nls_cp437 virtio_blk \
                       virtio_pci virtio_scsi virtio_console sd_mod nvme ahci";

/// dracut's other options.
const OPTIONS: &[&str] = &[
    "--force",
    "--quiet",
    "--reproducible",
    "--no-hostonly",
    "--no-hostonly-cmdline",
    "--install",
    "mkfs.ext4 mke2fs /etc/mke2fs.conf",
    // zstd unpacks several times faster than xz: boot time counts more than a megabyte.
    "--compress",
    "zstd -15 -T1",
];

/// What an initrd has besides that of a machine's own disk.
#[derive(Debug, Default)]
pub(super) struct Additions<'a> {
    pub(super) files: Vec<(&'a str, &'a str)>,
    /// Path and source of programs.
    pub(super) programs: Vec<(&'a str, &'a Path)>,
    pub(super) modules: String,
    /// Programs of the tools tree.
    pub(super) install: String,
    pub(super) drivers: String,
}

/// Builds the initrd for kernel `release` as `work/initrd` and returns its path. `programs` has
/// firstboot, which tells why a machine does not boot. Only this initrd opens encrypted state.
pub fn build(
    tools: &Tree,
    release: &str,
    programs: &Path,
    plan: &ImagePlan,
    work: &Path,
) -> Result<PathBuf> {
    let firstboot = programs.join("firstboot");
    let additions = Additions {
        programs: vec![("usr/bin/firstboot", &firstboot)],
        ..Additions::default()
    };
    let additions = sealed::initrd(plan, additions);
    build_with(tools, release, "initrd", &additions, plan, work)
}

/// [`build`] as `work/name`, with additions.
pub(super) fn build_with(
    tools: &Tree,
    release: &str,
    name: &str,
    more: &Additions<'_>,
    plan: &ImagePlan,
    work: &Path,
) -> Result<PathBuf> {
    let extra = work.join(format!("{name}-files"));
    let system = extra.join("usr/lib/systemd/system");
    let place = |path: &str| -> Result<PathBuf> {
        let file = extra.join(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("creating `{}`", folder.display()))?;
        }
        Ok(file)
    };
    for (path, contents) in FILES.iter().chain(&more.files) {
        let file = place(path)?;
        fs::write(&file, contents).with_context(|| format!("writing `{}`", file.display()))?;
    }
    for (path, source) in &more.programs {
        let file = place(path)?;
        fs::copy(source, &file).with_context(|| format!("copying `{}`", source.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("writing `{}`", file.display()))?;
    }
    let links = system.join("initrd-fs.target.requires");
    fs::create_dir_all(&links).with_context(|| format!("creating `{}`", links.display()))?;
    for unit in REQUIRED {
        let link = links.join(unit);
        if fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink(format!("../{unit}"), &link)
                .with_context(|| format!("linking `{}`", link.display()))?;
        }
    }

    let mut dracut = tools.chroot(&[(work, "/tmp/work")], "dracut")?;
    dracut.args(OPTIONS);
    dracut.args(plan_options(plan));
    dracut.args([
        "--kver",
        release,
        "--modules",
        &format!("{MODULES} {}", more.modules),
        "--add-drivers",
        &drivers(plan, &more.drivers),
    ]);
    if !more.install.is_empty() {
        dracut.args(["--install", &more.install]);
    }
    dracut.args(["--include", &format!("/tmp/work/{name}-files"), "/"]);
    dracut.arg(format!("/tmp/work/{name}"));
    process::run(&mut dracut)?;
    Ok(work.join(name))
}

/// Microcode lies in front of the initrd, where the kernel looks for it.
fn plan_options(plan: &ImagePlan) -> [&'static str; 1] {
    match plan.has_microcode() {
        true => ["--early-microcode"],
        false => ["--no-early-microcode"],
    }
}

fn drivers(plan: &ImagePlan, more: &str) -> String {
    let site = plan.modules.iter().map(String::as_str);
    [DRIVERS, more]
        .into_iter()
        .filter(|names| !names.is_empty())
        .chain(site)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The part of the image's key that this module decides.
pub(super) fn recipe(plan: &ImagePlan) -> String {
    let of_plan = (drivers(plan, ""), plan_options(plan));
    format!("{:?}", (FILES, REQUIRED, MODULES, of_plan, OPTIONS))
}
