//! The Debian trees of an image: the tools that build it, and Debian's part of its root.

use std::path::PathBuf;

use anyhow::Result;
use build_tools::cache::Cache;
use build_tools::debian_tree::{Spec, Tree};
use build_tools::progress::Progress;

use super::{root_files, sealed};
use crate::plan::{ImagePlan, Kernel};

const SUITE: &str = "trixie";

/// What builds an image, besides the kernel.
const TOOLS: &[&str] = &[
    "erofs-utils",
    "cryptsetup-bin",
    "dmsetup",
    "systemd-ukify",
    "systemd-boot-efi",
    "dracut-core",
    // The initrd that gets its root over the network.
    "dracut-network",
    "systemd",
    "systemd-repart",
    "systemd-cryptsetup",
    "udev",
    "e2fsprogs",
    "kmod",
    "zstd",
    "binutils",
    "cpio",
];

/// Folders of `/usr/share` that dpkg leaves out of the root.
const EXCLUDED: &[&str] = &["man", "info", "locale", "lintian", "bash-completion"];

impl Kernel {
    fn package(self) -> &'static str {
        match self {
            Self::Generic => "linux-image-amd64",
            Self::Cloud => "linux-image-cloud-amd64",
        }
    }
}

/// The tree with the tools that build a plain image and the kernel that boots it.
pub fn tools(cache: &Cache, kernel: Kernel, progress: &Progress) -> Result<Tree> {
    Tree::ensure(cache, &tools_spec(kernel), progress)
}

/// [`tools`] with the firmware of `plan`, from which dracut takes what the drivers of the initrd
/// name: a driver that starts there does not ask again in the root.
pub fn tools_for(cache: &Cache, plan: &ImagePlan, progress: &Progress) -> Result<Tree> {
    Tree::ensure(cache, &tools_spec_for(plan), progress)
}

fn tools_spec_for(plan: &ImagePlan) -> Spec {
    let mut spec = tools_spec(plan.kernel);
    if plan.state().is_some() {
        let packages = sealed::TOOLS.iter().map(|&name| name.to_owned());
        spec.packages.extend(packages);
    }
    add_firmware(&mut spec, plan, |_| true);
    spec
}

fn add_firmware(spec: &mut Spec, plan: &ImagePlan, wanted: impl Fn(&str) -> bool) {
    for package in plan.firmware_packages().filter(|name| wanted(name)) {
        spec.packages.push(package.to_owned());
        spec.non_free_firmware = true;
    }
}

fn tools_spec(kernel: Kernel) -> Spec {
    let mut spec = Spec::new("image tools", SUITE, "apt", TOOLS);
    spec.packages.push(kernel.package().to_owned());
    // The kernel depends on an initrd generator. dracut is the one this build uses.
    spec.packages.push("dracut".to_owned());
    spec
}

/// Debian's part of the root of `plan`, as a tar file.
pub(super) fn root_for(cache: &Cache, plan: &ImagePlan, progress: &Progress) -> Result<PathBuf> {
    Tree::ensure_tar(cache, &root_spec_for(plan), progress)
}

/// The kernel loads microcode before it has a root, and from there only.
fn root_spec_for(plan: &ImagePlan) -> Spec {
    let mut spec = root_spec();
    if plan.state().is_some() {
        let packages = sealed::ROOT.iter().map(|&name| name.to_owned());
        spec.packages.extend(packages);
    }
    add_firmware(&mut spec, plan, |name| !name.ends_with("-microcode"));
    spec.packages.extend(plan.packages.iter().cloned());
    spec
}

fn root_spec() -> Spec {
    let mut spec = Spec::new("image root", SUITE, "essential", root_files::PACKAGES);
    spec.arguments = EXCLUDED
        .iter()
        .map(|folder| format!("--dpkgopt=path-exclude=/usr/share/{folder}/*"))
        .chain([
            "--dpkgopt=path-exclude=/usr/share/doc/*".to_owned(),
            "--dpkgopt=path-include=/usr/share/doc/*/copyright".to_owned(),
        ])
        .collect();
    spec
}

/// Whether a package of the tools becomes part of the image: the kernel, the boot stub, microcode,
/// and programs and firmware of the initrd.
pub(super) fn is_booted(package: &str) -> bool {
    package.starts_with("linux-image-")
        || package.starts_with("libsystemd")
        || package.starts_with("firmware-")
        || package.ends_with("-microcode")
        || package.starts_with("libcryptsetup")
        || package.starts_with("libtss2-")
        || [
            "systemd-boot-efi",
            "dracut-core",
            "systemd",
            "systemd-repart",
            "systemd-cryptsetup",
            "udev",
            "kmod",
            "e2fsprogs",
            "dmsetup",
        ]
        .contains(&package)
}

/// Makes both trees of a plain image ahead of time. A failure is only logged: the build meets it
/// again and reports it.
pub fn prepare(cache: &Cache, kernel: Kernel, progress: &Progress) {
    let trees = tools(cache, kernel, progress)
        .and_then(|_| Tree::ensure_tar(cache, &root_spec(), progress));
    log_failure(trees);
}

/// [`prepare`] with what `plan` adds.
pub fn prepare_for(cache: &Cache, plan: &ImagePlan, progress: &Progress) {
    let trees = tools_for(cache, plan, progress).and_then(|_| root_for(cache, plan, progress));
    log_failure(trees);
}

fn log_failure(trees: Result<PathBuf>) {
    if let Err(error) = trees {
        log::debug!("preparing the Debian trees: {error:#}");
    }
}

/// The part of the image's key that this module decides.
pub(super) fn recipe(plan: &ImagePlan) -> String {
    format!("{:?}", (tools_spec_for(plan), root_spec_for(plan)))
}
