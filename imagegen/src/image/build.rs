//! The stages of an image in order.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use build_tools::cache::Cache;
use build_tools::debian_tree::Tree;
use build_tools::process::side_by_side;
use build_tools::progress::Progress;
use default_package::{SUPPLIED_CRICTL, Supplies};
use serde::{Deserialize, Serialize};

use super::root_files::STATE;
use super::{
    ImageRequest, containerd, debian, disk, docker, facts, hooks, initrd, kubeadm, layers,
    releases, root, sbom, sealed, site, uki, verity,
};
use crate::package::oci::{Image, ImageArchive};
use crate::package::{BUILD_HOOK, Package, State};

/// A finished image, as the manifest records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageReport {
    /// Digest of the package, `sha256:…`.
    pub package: String,
    /// dm-verity's digest of the whole root; also on the kernel command line.
    pub root_hash: String,
    pub kernel_release: String,
    /// Size of the compressed root in bytes.
    pub root_size: u64,
    /// Size of the unified kernel image in bytes.
    pub uki_size: u64,
    /// Name and installed size in bytes of each Debian package that the topology adds to the root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub site_packages: Vec<(String, u64)>,
    /// Each stage with its duration in milliseconds, in order.
    pub stages: Vec<(String, u64)>,
}

/// Building runs chroot and mount, which need root.
pub fn check_privilege() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "building a node image needs root: dracut and ukify run in a chroot, and mmdebstrap \
         creates device nodes; \
         run imagegen with sudo (`imagegen userdata` writes the documents without root)"
    );
    Ok(())
}

/// Builds the image at `out`, which must not exist, and returns its bill of materials too; `work`
/// is for intermediate files. After a failure `out` is missing or incomplete, and the caller removes
/// it together with `work`.
pub fn build(
    request: &ImageRequest<'_>,
    out: &Path,
    work: &Path,
    cache: &Cache,
    progress: &Progress,
) -> Result<(ImageReport, Vec<u8>)> {
    let mut stages = Vec::new();
    let mut took = |name: &str, time: Duration| {
        stages.push((
            name.to_owned(),
            time.as_millis().try_into().unwrap_or(u64::MAX),
        ));
    };

    let verdict = request.package.verdict();
    verdict.refuse()?;
    for warning in &verdict.warnings {
        log::warn!("{warning}");
    }
    for part in &verdict.parts {
        match part.state {
            State::Changed => log::warn!("{}: {}", part.name, part.detail),
            State::NotUsed => log::info!("{} is not used: {}", part.name, part.detail),
            State::Used | State::Supplied => {}
        }
    }

    let stage = progress.stage("package");
    let package = work.join("package");
    request.package.extract_to(&package)?;
    let images = images(request.package, &package)?;
    let mut facts = facts::image_file(request.package, &verdict, &images)?;
    facts.impossible_keys = request.plan.impossible_keys;
    let images = layers::spool(&images, work)?;
    took("package", stage.done());

    let tools = debian::tools_for(cache, request.plan, progress)?;
    let base = debian::root_for(cache, request.plan, progress)?;
    let (release, modules) = kernel_modules(&tools)?;
    let kubernetes = request.package.kubernetes_version()?;
    releases::kubernetes(&tools, &package, &kubernetes)?;
    site::check_modules(&modules, &release, &request.plan.modules)?;
    facts.kubeadm_phases = kubeadm::phases(&tools, &package)?;

    let wants = |crictl: bool| {
        let mut supplied = verdict.supplied.iter();
        supplied.any(|own| (own.program == SUPPLIED_CRICTL) == crictl)
    };
    let supplies = Supplies::ensure(wants(true), wants(false), cache, progress)?;

    let stage = progress.stage("root");
    let (mut composed, site_packages) = root::compose(&root::Inputs {
        base: &base,
        modules: &modules,
        release: &release,
        package: &package,
        programs: request.programs,
        facts: &facts,
        verdict: &verdict,
        supplies: &supplies,
        plan: request.plan,
        work,
    })?;
    // The kubelet does not speak to docker's containerd.
    if !facts.runtime.is_docker() {
        releases::containerd(&tools, &composed, &kubernetes, wants(true), work)?;
    }
    if request.package.contains(BUILD_HOOK) {
        let stage = progress.stage("build hook");
        composed = hooks::run(&composed, &package, &|| tools.program("tar"), work, &stage)?;
        took("hook", stage.done());
    }
    match facts.runtime.is_docker() {
        false => containerd::store::write(&mut composed, STATE, &images)?,
        true => docker::store::write(&mut composed, STATE, &images)?,
    }
    let tar = work.join("root.tar");
    let file = File::create(&tar).with_context(|| format!("creating `{}`", tar.display()))?;
    composed.write(BufWriter::with_capacity(1 << 20, file))?;
    took("root", stage.done());

    // dracut and mkfs.erofs keep one processor busy each.
    let (initrd, compressed) = side_by_side(
        || -> Result<_> {
            let stage = progress.stage("initrd");
            let initrd = initrd::build(&tools, &release, request.programs, request.plan, work)?;
            Ok((initrd, stage.done()))
        },
        || compress(&tools, &tar, work, progress),
    );
    let ((initrd, dracut), compressed) = (initrd?, compressed?);
    took("erofs", compressed.erofs);
    took("verity", compressed.verity);
    took("initrd", dracut);

    let stage = progress.stage("kernel image");
    let arguments = sealed::arguments(request.plan);
    let cmdline = uki::cmdline(&compressed.root_hash, &request.plan.console, &arguments);
    let os_release = composed.read("usr/lib/os-release")?;
    let contents = uki::Contents {
        release: &release,
        initrd: &initrd,
        cmdline: &cmdline,
        os_release: &os_release,
    };
    let uki = uki::build(&tools, &contents, request.keys(), work)?;
    took("uki", stage.done());

    let stage = progress.stage("disk image");
    let seed: Vec<(&str, &[u8])> = request
        .seed
        .iter()
        .map(|(n, b)| (n.as_str(), b.as_slice()))
        .collect();
    disk::write(
        &disk::Parts {
            uki: &uki,
            root: &compressed.root,
            verity: &compressed.hash_tree,
            root_hash: &compressed.root_hash,
            seed: &seed,
        },
        out,
    )?;
    took("disk", stage.done());

    let stage = progress.stage("bill of materials");
    let sbom = sbom::write(&sbom::Sources {
        packages: vec![
            sbom::Packages::of_tar(&base)?,
            sbom::Packages::of_tree(&tools, debian::is_booted)?,
        ],
        images: &images,
        root: &composed,
        root_hash: &compressed.root_hash,
    })?;
    took("sbom", stage.done());

    let size = |path: &Path| {
        path.metadata()
            .map(|m| m.len())
            .with_context(|| format!("reading `{}`", path.display()))
    };
    let report = ImageReport {
        package: facts.package_digest.clone(),
        root_size: size(&compressed.root)?,
        root_hash: compressed.root_hash,
        kernel_release: release,
        uki_size: size(&uki)?,
        site_packages,
        stages,
    };
    Ok((report, sbom))
}

/// The root as a file system with its hash tree.
struct Compressed {
    root: PathBuf,
    hash_tree: PathBuf,
    root_hash: String,
    /// How long each stage took.
    erofs: Duration,
    verity: Duration,
}

/// Compresses the root of `tar`, which it removes.
fn compress(tools: &Tree, tar: &Path, work: &Path, progress: &Progress) -> Result<Compressed> {
    let stage = progress.stage("compressed file system");
    let root = work.join("root.erofs");
    verity::erofs(tools, tar, &root)?;
    std::fs::remove_file(tar).with_context(|| format!("removing `{}`", tar.display()))?;
    let erofs = stage.done();

    let stage = progress.stage("hash tree");
    let hash_tree = work.join("root.verity");
    let root_hash = verity::format(tools, &root, &hash_tree)?;
    Ok(Compressed {
        root,
        hash_tree,
        root_hash,
        erofs,
        verity: stage.done(),
    })
}

/// Every image of the package unpacked at `folder`, in the order of the archives' names.
pub(super) fn images(package: &Package, folder: &Path) -> Result<Vec<Image>> {
    let mut names: Vec<&str> = package.images().collect();
    names.sort_unstable();
    let mut images = Vec::new();
    for name in names {
        images.extend(ImageArchive::of_package(folder, name)?.images);
    }
    Ok(images)
}

/// Release and modules folder of the only kernel in the tools tree.
pub(crate) fn kernel_modules(tools: &Tree) -> Result<(String, PathBuf)> {
    let folder = tools.path().join("usr/lib/modules");
    let mut releases = Vec::new();
    for entry in
        std::fs::read_dir(&folder).with_context(|| format!("reading `{}`", folder.display()))?
    {
        let entry = entry.with_context(|| format!("reading `{}`", folder.display()))?;
        releases.push(entry.file_name().to_string_lossy().into_owned());
    }
    ensure!(
        releases.len() == 1,
        "`{}` has {} kernels, expected one",
        folder.display(),
        releases.len()
    );
    let release = releases.remove(0);
    let modules = folder.join(&release);
    Ok((release, modules))
}
