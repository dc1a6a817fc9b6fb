//! The programs and images under test, built as a user builds them: by cargo and `imagegen`.
//!
//! Both tools detect by themselves what is up to date.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use build_tools::cache::Cache;
use build_tools::process::{self, side_by_side};
use build_tools::progress::Progress;
use default_package::default_package;
use imagegen::image;
use imagegen::plan::Kernel;

use crate::host::run_dir::target_dir;

/// The path of a package to use in place of the default package.
pub const PACKAGE: &str = "FIRSTLIGHT_PACKAGE";

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Programs {
    pub imagegen: PathBuf,
    /// The folder of the static `firstboot` and `lvscare` for images.
    pub image: PathBuf,
}

impl Programs {
    /// Builds the programs and, at the same time, the package and the Debian trees of an image.
    /// What has not changed is not built again. The first time each takes minutes.
    pub fn build() -> Result<Self> {
        let progress = Progress::stderr();
        let imagegen = build_imagegen(&progress)?;
        let cache = Cache::open()?;
        let (image, (package, ())) = side_by_side(
            || build_static(&progress),
            || {
                side_by_side(
                    || package(&cache, &progress),
                    || image::prepare(&cache, Kernel::Cloud, &progress),
                )
            },
        );
        let image = image?;
        package?;
        Ok(Self { imagegen, image })
    }

    /// Builds only imagegen, and returns its path.
    pub fn build_imagegen() -> Result<PathBuf> {
        build_imagegen(&Progress::stderr())
    }

    /// Builds imagegen as its users do, for a benchmark, and returns its path.
    pub fn build_imagegen_release() -> Result<PathBuf> {
        let target = target_dir();
        let mut cargo = cargo(&target);
        cargo.args(["build", "--release", "--package", "vm-tests"]);
        cargo.args(["--package", "imagegen", "--bin", "imagegen"]);
        build("imagegen", &mut cargo, &Progress::stderr())?;
        Ok(target.join("release/imagegen"))
    }

    /// Builds only the static programs, and returns their folder.
    pub fn build_static() -> Result<PathBuf> {
        build_static(&Progress::stderr())
    }

    /// Builds the program that tests lvscare inside a machine.
    pub fn build_lvscare_guest() -> Result<PathBuf> {
        cargo_static(
            "lvscare-guest",
            &["--package", "lvscare-guest"],
            &Progress::stderr(),
        )
        .map(|release| release.join("lvscare-guest"))
    }
}

/// The folder of the package that images are made of: [`PACKAGE`], else the default package.
pub fn package(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    match std::env::var_os(PACKAGE).filter(|path| !path.is_empty()) {
        Some(path) => Ok(PathBuf::from(path)),
        None => default_package(cache, progress),
    }
}

fn build_imagegen(progress: &Progress) -> Result<PathBuf> {
    // The target folder of the outer cargo, which holds no lock while it runs tests. With
    // `vm-tests` in the list cargo selects the same features of every dependency, which it has
    // compiled already.
    let target = target_dir();
    let mut cargo = cargo(&target);
    cargo.args(["build", "--package", "vm-tests", "--package", "imagegen"]);
    cargo.args(["--bin", "imagegen"]);
    build("imagegen", &mut cargo, progress)?;
    Ok(target.join("debug/imagegen"))
}

fn build_static(progress: &Progress) -> Result<PathBuf> {
    let packages = ["--package", "firstboot", "--package", "lvscare", "--bins"];
    cargo_static("firstboot and lvscare", &packages, progress)
}

/// Builds static programs, and returns their folder.
fn cargo_static(name: &str, what: &[&str], progress: &Progress) -> Result<PathBuf> {
    let folder = target_dir().join("vm-tests/build");
    fs::create_dir_all(&folder).with_context(|| format!("creating `{}`", folder.display()))?;
    let _lock = lock(&folder.join("lock"))?;
    let target = folder.join("static");
    // Without `--target` the flags would apply to procedural macros, which cannot be static.
    let mut cargo = cargo(&target);
    cargo.args(["build", "--release", "--target", TARGET]);
    cargo.args(what);
    // The programs never unwind, and unwind tables would be a twentieth of lvscare's memory.
    cargo.env(
        "RUSTFLAGS",
        "-C target-feature=+crt-static -C force-unwind-tables=no",
    );
    build(name, &mut cargo, progress)?;
    Ok(target.join(TARGET).join("release"))
}

fn cargo(target: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    cargo.env("CARGO_TARGET_DIR", target);
    // These variables of the outer cargo would make the inner one rebuild everything.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Runs cargo and shows its current line.
fn build(name: &str, cargo: &mut Command, progress: &Progress) -> Result<()> {
    let stage = progress.stage(format_args!("building {name}"));
    process::watch("cargo build", cargo, |line| stage.at(line.trim()))
        .with_context(|| format!("building {name}"))?;
    stage.done();
    Ok(())
}

/// The output of `imagegen` for one topology.
#[derive(Debug, Clone)]
pub struct Output {
    folder: PathBuf,
    topology: PathBuf,
    image: PathBuf,
}

impl Output {
    /// Runs `imagegen --topology …`; the output folder is named after the topology's file.
    pub fn make(programs: &Programs, topology: &Path) -> Result<Self> {
        let name = stem(topology)?;
        Self::make_at(programs, topology, None, &name)
    }

    /// Like [`Output::make`], of another package, in a folder `name`.
    pub fn make_of(
        programs: &Programs,
        topology: &Path,
        package: &Path,
        name: &str,
    ) -> Result<Self> {
        Self::make_at(programs, topology, Some(package), name)
    }

    fn make_at(
        programs: &Programs,
        topology: &Path,
        package: Option<&Path>,
        name: &str,
    ) -> Result<Self> {
        let folder = target_dir().join("vm-tests/images").join(name);
        fs::create_dir_all(folder.parent().unwrap_or(&folder))?;
        let _lock = lock(&folder.with_extension("lock"))?;
        let mut imagegen = match package {
            None => imagegen(programs, topology, &folder),
            Some(package) => {
                let mut imagegen = without_package(programs, topology, &folder);
                imagegen.arg("--package").arg(package);
                imagegen
            }
        };
        imagegen.arg("--programs").arg(&programs.image);
        run(&mut imagegen)?;
        Ok(Self {
            image: folder.join("node.raw"),
            folder,
            topology: topology.to_path_buf(),
        })
    }

    /// Writes the documents of this cluster for a changed topology, with the same certificate
    /// authorities, to a new `folder`. The image stays the same.
    pub fn changed(&self, programs: &Programs, topology: &Path, folder: &Path) -> Result<Self> {
        fs::create_dir(folder).with_context(|| format!("creating `{}`", folder.display()))?;
        for name in ["pki", "hosts", "admin.conf", "manifest.json"] {
            crate::host::process::run(
                Command::new("cp")
                    .arg("-a")
                    .arg(self.folder.join(name))
                    .arg(folder),
            )?;
        }
        run(imagegen(programs, topology, folder).arg("userdata"))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            topology: topology.to_path_buf(),
            image: self.image.clone(),
        })
    }

    /// Runs `imagegen pki rotate` on this folder, and returns what it prints.
    pub fn rotate(&self, programs: &Programs, arguments: &[&str]) -> Result<String> {
        let mut imagegen = imagegen(programs, &self.topology, &self.folder);
        imagegen.args(["pki", "rotate"]).args(arguments);
        let printed = crate::host::process::run(&mut imagegen)?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    /// Adds `pxe/` to the folder, from which machines boot over the network and from media.
    pub fn add_pxe(&self, programs: &Programs) -> Result<()> {
        let mut imagegen = imagegen(programs, &self.topology, &self.folder);
        imagegen.arg("--programs").arg(&programs.image);
        run(imagegen.args(["image", "--pxe"]))
    }

    /// Adds the node image as a qcow2 file, and returns its path.
    pub fn add_qcow2(&self, programs: &Programs) -> Result<PathBuf> {
        let mut imagegen = imagegen(programs, &self.topology, &self.folder);
        imagegen.arg("--programs").arg(&programs.image);
        run(imagegen.args(["image", "--qcow2"]))?;
        Ok(self.folder.join("node.qcow2"))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The topology file.
    pub fn topology(&self) -> &Path {
        &self.topology
    }

    /// The node image. Nothing writes to it.
    pub fn image(&self) -> PathBuf {
        self.image.clone()
    }

    /// The seed disk of one host.
    pub fn seed(&self, host: &str) -> PathBuf {
        self.folder.join("hosts").join(host).join("seed.img")
    }

    /// The administrator's kubeconfig.
    pub fn admin(&self) -> PathBuf {
        self.folder.join("admin.conf")
    }

    pub fn manifest(&self) -> Result<serde_json::Value> {
        let path = self.folder.join("manifest.json");
        let text = fs::read(&path).with_context(|| format!("reading `{}`", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading `{}`", path.display()))
    }
}

fn stem(path: &Path) -> Result<String> {
    let name = path
        .file_stem()
        .context("the path of the topology has no file name")?;
    Ok(name.to_string_lossy().into_owned())
}

fn without_package(programs: &Programs, topology: &Path, folder: &Path) -> Command {
    let mut imagegen = Command::new(&programs.imagegen);
    imagegen.arg("--topology").arg(topology);
    imagegen.arg("--output").arg(folder);
    imagegen
}

fn imagegen(programs: &Programs, topology: &Path, folder: &Path) -> Command {
    let mut imagegen = without_package(programs, topology, folder);
    if let Some(package) = std::env::var_os(PACKAGE).filter(|path| !path.is_empty()) {
        imagegen.arg("--package").arg(package);
    }
    imagegen
}

/// Runs imagegen; its messages are part of the test's output.
fn run(imagegen: &mut Command) -> Result<()> {
    let status = imagegen
        .stdin(Stdio::null())
        .status()
        .context("starting imagegen")?;
    if !status.success() {
        bail!("`{imagegen:?}`: {status}");
    }
    Ok(())
}

/// A topology of `vm-tests/topologies/`.
pub fn topology(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("topologies")
        .join(format!("{name}.yaml"))
}

/// Test programs run as separate processes: one builds, the others wait for it.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("creating `{}`", path.display()))?;
    file.lock()
        .with_context(|| format!("locking `{}`", path.display()))?;
    Ok(file)
}
