//! The immutable node image: [`build`] is its story.
//!
//! Root tree → erofs → dm-verity → UKI → ESP, GPT → `node.raw`. The same inputs give the same bytes: everything is dated
//! alike, ids come from contents, and outside tools come from Debian trees.

pub mod archive;
pub mod bolt;
pub mod disk;
pub mod initrd;
pub mod root;
pub mod store;
pub mod uki;
pub mod verity;

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use userdata::image::ImageFile;

use crate::cache::Cache;
use crate::progress::Progress;
use crate::tree::{Spec, Tree};

/// Raised when the recipe changes in a way that its inputs do not show.
const REVISION: u32 = 1;

/// Which kernel the image boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernel {
    /// `linux-image-amd64`: any hardware.
    Generic,
    /// `linux-image-cloud-amd64`: virtual machines; smaller, and without drivers for real hardware.
    Cloud,
}

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
    /// The package, unpacked.
    pub package: &'a Path,
    pub images: Vec<store::StoredImage>,
    pub facts: ImageFile,
    /// The folder of the static programs `firstboot` and `lvscare`.
    pub programs: &'a Path,
    pub kernel: Kernel,
    /// Devices of the kernel's console: `ttyS0`, `tty0`.
    pub console: Vec<String>,
    /// Further words for the kernel command line.
    pub cmdline: Vec<String>,
    /// Files to bake into the seed partition; none unless asked for.
    pub seed: Vec<(String, Vec<u8>)>,
    /// A folder on the output's file system that may be written to and is emptied by the caller.
    pub work: &'a Path,
}

/// What was made, for the manifest and for people.
#[derive(Debug, Clone, Serialize)]
pub struct ImageReport {
    pub root_hash: String,
    pub kernel_release: String,
    /// Bytes of the compressed root.
    pub root_size: u64,
    /// Bytes of the kernel image with initrd.
    pub uki_size: u64,
    /// Seconds by stage, in order.
    pub stages: Vec<(String, f64)>,
}

/// The Debian tree whose tools make the image, and whose kernel boots it.
pub fn tools(cache: &Cache, kernel: Kernel, progress: &Progress) -> Result<Tree> {
    let mut spec = Spec::new(
        "image tools",
        "trixie",
        "apt",
        &[
            "erofs-utils", "cryptsetup-bin", "dmsetup", "systemd-ukify", "systemd-boot-efi", "dracut-core", "systemd",
            "systemd-repart", "systemd-cryptsetup", "udev", "e2fsprogs", "kmod", "zstd", "binutils", "cpio",
        ],
    );
    spec.packages.push(kernel.package().to_owned());
    // The kernel wants some initrd builder; dracut is ours, and it need not build one at installation.
    spec.packages.push("dracut".to_owned());
    Tree::ensure(cache, &spec, progress)
}

/// Debian's part of the root, as a tar file.
fn base(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let mut spec = Spec::new("image root", "trixie", "essential", root::PACKAGES);
    spec.arguments = ["man", "info", "locale", "lintian", "bash-completion"]
        .iter()
        .map(|folder| format!("--dpkgopt=path-exclude=/usr/share/{folder}/*"))
        .chain(["--dpkgopt=path-exclude=/usr/share/doc/*".to_owned(), "--dpkgopt=path-include=/usr/share/doc/*/copyright".to_owned()])
        .collect();
    Tree::ensure_tar(cache, &spec, progress)
}

/// Builds the image at `out`, which must not exist; on failure `out` is not there or not whole, and the caller, who owns
/// the name, removes it.
pub fn build(request: &ImageRequest<'_>, out: &Path, cache: &Cache, progress: &Progress) -> Result<ImageReport> {
    let mut stages = Vec::new();
    let mut took = |name: &str, time: Duration| stages.push((name.to_owned(), time.as_secs_f64()));
    let work = request.work;

    let tools = tools(cache, request.kernel, progress)?;
    let base = base(cache, progress)?;
    let (release, modules) = kernel_modules(&tools)?;

    let stage = progress.stage("root");
    let composed = root::compose(&root::Inputs {
        base: &base,
        modules: &modules,
        release: &release,
        package: request.package,
        programs: request.programs,
        images: &request.images,
        facts: &request.facts,
        work,
    })?;
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
    let cmdline = uki::cmdline(&root_hash, &request.console, &request.cmdline);
    let os_release = composed.read("usr/lib/os-release")?;
    let uki = uki::build(&tools, &release, &initrd, &cmdline, &os_release, work)?;
    took("uki", stage.done());

    let stage = progress.stage("disk image");
    let seed: Vec<(&str, &[u8])> = request.seed.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    disk::write(
        &disk::Parts { uki: &uki, root: &root_image, verity: &hash_tree, root_hash: &root_hash, seed: &seed },
        out,
    )?;
    took("disk", stage.done());

    let size = |path: &Path| path.metadata().map(|m| m.len()).with_context(|| format!("reading `{}`", path.display()));
    Ok(ImageReport {
        root_hash,
        kernel_release: release,
        root_size: size(&root_image)?,
        uki_size: size(&uki)?,
        stages,
    })
}

/// The one kernel of the tools tree: its release and its modules.
fn kernel_modules(tools: &Tree) -> Result<(String, PathBuf)> {
    let folder = tools.path().join("usr/lib/modules");
    let mut releases = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("reading `{}`", folder.display()))? {
        let entry = entry.with_context(|| format!("reading `{}`", folder.display()))?;
        releases.push(entry.file_name().to_string_lossy().into_owned());
    }
    ensure!(releases.len() == 1, "`{}` holds {} kernels, expected one", folder.display(), releases.len());
    let release = releases.remove(0);
    let modules = folder.join(&release);
    Ok((release, modules))
}

/// Everything that decides an image's bytes besides the package, the programs and the topology's words.
pub fn recipe() -> String {
    format!("image {REVISION} {}", env!("CARGO_PKG_VERSION"))
}
