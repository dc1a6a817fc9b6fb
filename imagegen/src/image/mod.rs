//! The immutable node image: [`build`] is its story.
//!
//! Root tree → erofs → dm-verity → UKI → ESP, GPT → `node.raw`. The same inputs give the same bytes: everything is dated
//! alike, ids come from contents, and outside tools come from Debian trees.

pub mod archive;
pub mod bolt;
pub mod disk;
pub mod facts;
pub mod hooks;
pub mod initrd;
pub mod kubeadm;
pub mod programs;
pub mod qcow2;
pub mod root;
pub mod store;
pub mod uki;
pub mod verity;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::package::images::ImageArchive;
use crate::package::{BUILD_HOOK, Package};
use crate::plan::{ImagePlan, Kernel};
use build_tools::cache::{Cache, Key};
use build_tools::debian_tree::{Spec, Tree};
use build_tools::progress::Progress;

/// Raised when the recipe changes in a way that its inputs do not show.
const REVISION: u32 = 1;

impl Kernel {
    fn package(self) -> &'static str {
        match self {
            Self::Generic => "linux-image-amd64",
            Self::Cloud => "linux-image-cloud-amd64",
        }
    }
}

/// What an image is made from.
#[derive(Debug)]
pub struct ImageRequest<'a> {
    pub package: &'a Package,
    pub plan: &'a ImagePlan,
    /// The folder of the static programs `firstboot` and `lvscare`.
    pub programs: &'a Path,
    /// Files to bake into the seed partition; none unless asked for.
    pub seed: Vec<(String, Vec<u8>)>,
}

impl ImageRequest<'_> {
    /// A digest over everything that decides the image's bytes.
    pub fn key(&self) -> Result<String> {
        let mut key = Key::new("image", REVISION)
            .with("version", env!("CARGO_PKG_VERSION"))
            .with("package", self.package.digest())
            .with(
                "plan",
                serde_json::to_vec(self.plan).context("writing the plan")?,
            );
        for name in programs::NAMES {
            key = key.with(
                name,
                crate::manifest::digest_file(&self.programs.join(name))?,
            );
        }
        for (name, text) in root::sources().chain(initrd::sources()) {
            key = key.with(name, text);
        }
        for (name, bytes) in &self.seed {
            key = key.with(name, bytes);
        }
        if self.package.contains(BUILD_HOOK) {
            key = key.with("hook", BUILD_HOOK);
        }
        Ok(key.hex())
    }
}

/// What was made, for the manifest and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageReport {
    /// Of the package, `sha256:…`.
    pub package: String,
    /// dm-verity's, over the whole root; also on the kernel command line.
    pub root_hash: String,
    pub kernel_release: String,
    /// Bytes of the compressed root.
    pub root_size: u64,
    /// Bytes of the kernel image with its initrd.
    pub uki_size: u64,
    /// Milliseconds that each stage took, in order.
    pub stages: Vec<(String, u64)>,
}

/// The Debian tree whose tools make the image, and whose kernel boots it.
pub fn tools(cache: &Cache, kernel: Kernel, progress: &Progress) -> Result<Tree> {
    let mut spec = Spec::new(
        "image tools",
        "trixie",
        "apt",
        &[
            "erofs-utils",
            "cryptsetup-bin",
            "dmsetup",
            "systemd-ukify",
            "systemd-boot-efi",
            "dracut-core",
            "systemd",
            "systemd-repart",
            "systemd-cryptsetup",
            "udev",
            "e2fsprogs",
            "kmod",
            "zstd",
            "binutils",
            "cpio",
        ],
    );
    spec.packages.push(kernel.package().to_owned());
    // The kernel wants some initrd builder; dracut is ours, and it need not build one at installation.
    spec.packages.push("dracut".to_owned());
    Tree::ensure(cache, &spec, progress)
}

/// Makes the Debian trees of every image in advance. What fails here fails again where it is needed, and is told there.
pub fn prepare(cache: &Cache, kernel: Kernel, progress: &Progress) {
    let trees = tools(cache, kernel, progress).and_then(|_| base(cache, progress));
    if let Err(error) = trees {
        log::debug!("in advance: {error:#}");
    }
}

/// Debian's part of the root, as a tar file.
fn base(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let mut spec = Spec::new("image root", "trixie", "essential", root::PACKAGES);
    spec.arguments = ["man", "info", "locale", "lintian", "bash-completion"]
        .iter()
        .map(|folder| format!("--dpkgopt=path-exclude=/usr/share/{folder}/*"))
        .chain([
            "--dpkgopt=path-exclude=/usr/share/doc/*".to_owned(),
            "--dpkgopt=path-include=/usr/share/doc/*/copyright".to_owned(),
        ])
        .collect();
    Tree::ensure_tar(cache, &spec, progress)
}

/// Building changes root into Debian trees, and mounts there; both are root's alone.
pub fn check_privilege() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "building a node image needs root: it changes root into a Debian tree to run dracut and ukify, and mmdebstrap \
         makes that tree's device nodes; run imagegen with sudo (`imagegen userdata` makes documents without it)"
    );
    Ok(())
}

/// Builds the image at `out`, which must not exist, with `work` for what is only needed on the way. On failure `out` is
/// not there or not whole; the caller, who owns both names, removes them.
pub fn build(
    request: &ImageRequest<'_>,
    out: &Path,
    work: &Path,
    cache: &Cache,
    progress: &Progress,
) -> Result<ImageReport> {
    let mut stages = Vec::new();
    let mut took = |name: &str, time: Duration| {
        stages.push((
            name.to_owned(),
            time.as_millis().try_into().unwrap_or(u64::MAX),
        ));
    };

    let stage = progress.stage("package");
    let package = work.join("package");
    request.package.extract_to(&package)?;
    let images = images(request.package, &package)?;
    let facts = facts::image_file(
        request.package,
        &images,
        kubeadm::phases(&package.join("bin/kubeadm"))?,
    )?;
    let images = spool(&images, work)?;
    took("package", stage.done());

    let tools = tools(cache, request.plan.kernel, progress)?;
    let base = base(cache, progress)?;
    let (release, modules) = kernel_modules(&tools)?;

    let stage = progress.stage("root");
    let mut composed = root::compose(&root::Inputs {
        base: &base,
        modules: &modules,
        release: &release,
        package: &package,
        programs: request.programs,
        facts: &facts,
        work,
    })?;
    if request.package.contains(BUILD_HOOK) {
        let stage = progress.stage("the package's hook");
        composed = hooks::run(&composed, &package, &|| tools.program("tar"), work, &stage)?;
        took("hook", stage.done());
    }
    store::write(&mut composed, root::STATE, &images)?;
    let tar = work.join("root.tar");
    let file = File::create(&tar).with_context(|| format!("creating `{}`", tar.display()))?;
    composed.write(BufWriter::with_capacity(1 << 20, file))?;
    took("root", stage.done());

    let stage = progress.stage("compressed file system");
    let root_image = work.join("root.erofs");
    verity::erofs(&tools, &tar, &root_image)?;
    std::fs::remove_file(&tar).with_context(|| format!("removing `{}`", tar.display()))?;
    took("erofs", stage.done());

    let stage = progress.stage("hash tree");
    let hash_tree = work.join("root.verity");
    let root_hash = verity::format(&tools, &root_image, &hash_tree)?;
    took("verity", stage.done());

    let stage = progress.stage("initrd");
    let initrd = initrd::build(&tools, &release, work)?;
    took("initrd", stage.done());

    let stage = progress.stage("kernel image");
    let cmdline = uki::cmdline(&root_hash, &request.plan.console, &request.plan.cmdline);
    let os_release = composed.read("usr/lib/os-release")?;
    let uki = uki::build(&tools, &release, &initrd, &cmdline, &os_release, work)?;
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
            root: &root_image,
            verity: &hash_tree,
            root_hash: &root_hash,
            seed: &seed,
        },
        out,
    )?;
    took("disk", stage.done());

    let size = |path: &Path| {
        path.metadata()
            .map(|m| m.len())
            .with_context(|| format!("reading `{}`", path.display()))
    };
    Ok(ImageReport {
        package: facts.package_digest.clone(),
        root_hash,
        kernel_release: release,
        root_size: size(&root_image)?,
        uki_size: size(&uki)?,
        stages,
    })
}

/// Every image of the package, unpacked at `folder`, in the order of the archives' names.
fn images(package: &Package, folder: &Path) -> Result<Vec<crate::package::images::Image>> {
    let mut names: Vec<&str> = package.images().collect();
    names.sort_unstable();
    let mut images = Vec::new();
    for name in names {
        images.extend(ImageArchive::of_package(folder, name)?.images);
    }
    Ok(images)
}

/// The images with their layers uncompressed in unnamed files; a layer that several share is written once.
fn spool(images: &[crate::package::images::Image], work: &Path) -> Result<Vec<store::StoredImage>> {
    let mut known: BTreeMap<String, store::StoredLayer> = BTreeMap::new();
    let mut stored = Vec::new();
    for image in images {
        let mut layers = Vec::new();
        for layer in &image.layers {
            let entry = match known.get(&layer.diff_id) {
                Some(known) => known.clone(),
                None => {
                    let mut file =
                        tempfile::tempfile_in(work).context("creating a temporary file")?;
                    let size = layer.copy_to(&mut file)?;
                    let made = store::StoredLayer {
                        diff_id: layer.diff_id.clone(),
                        size,
                        tar: Arc::new(file),
                    };
                    known.insert(layer.diff_id.clone(), made.clone());
                    made
                }
            };
            layers.push(entry);
        }
        stored.push(store::StoredImage {
            references: image.references.clone(),
            config: image.config.clone(),
            layers,
        });
    }
    Ok(stored)
}

/// The one kernel of the tools tree: its release and its modules.
fn kernel_modules(tools: &Tree) -> Result<(String, PathBuf)> {
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
        "`{}` holds {} kernels, expected one",
        folder.display(),
        releases.len()
    );
    let release = releases.remove(0);
    let modules = folder.join(&release);
    Ok((release, modules))
}
