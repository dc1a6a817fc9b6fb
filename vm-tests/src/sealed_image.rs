//! Small images with encrypted state: imagegen's initrd, units and kernel image, and a root of
//! Debian's systemd with firstboot, but no Kubernetes. A boot takes seconds instead of minutes.

use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use build_tools::cache::Cache;
use build_tools::debian_tree::{Spec, Tree};
use build_tools::progress::Progress;
use imagegen::image::archive::Archive;
use imagegen::image::disk::Parts;
use imagegen::image::{self, Signing, initrd, sealed, uki, verity};
use imagegen::plan::{ImagePlan, Kernel, SecureBootPlan};
use imagegen::state_keys::PolicyKey;
use userdata::contract::ESP_PARTITION;
use userdata::state_info::Encryption;

use crate::host::artifacts::Programs;
use crate::host::run_dir::RunDir;
use crate::machine::disk;
use crate::machine::smbios::{NO_TIMER_CHECK, report_files};

/// Makes disks with one root and one initrd, and kernel images that differ.
#[derive(Debug)]
pub struct Builder {
    plan: ImagePlan,
    tools: Tree,
    release: String,
    signing: Option<Signing>,
    work: PathBuf,
    root: PathBuf,
    tree: PathBuf,
    root_hash: String,
    initrd: PathBuf,
}

impl Builder {
    /// With `signing` the images are signed for Secure Boot, and their state demands it.
    pub fn new(run_dir: &RunDir, signing: Option<Signing>) -> Result<Self> {
        let files = || SecureBootPlan {
            key: "key".to_owned(),
            certificate: "certificate".to_owned(),
        };
        let plan = ImagePlan {
            kernel: Kernel::Cloud,
            encrypt: Encryption::Tpm2,
            secure_boot: signing.is_some().then(files),
            ..ImagePlan::default()
        };
        let (cache, progress) = (Cache::open()?, Progress::stderr());
        let tools = image::tools_for(&cache, &plan, &progress)?;
        // firstboot talks to systemd over D-Bus. Both trees are of one state of Debian.
        let spec = Spec::new("D-Bus", "trixie", "apt", &["systemd", "dbus"]);
        let bus = Tree::ensure(&cache, &spec, &progress)?;
        let programs = Programs::build_static()?;
        let modules = tools.path().join("usr/lib/modules");
        let release = fs::read_dir(&modules)?.next().context("no kernel")??;
        let release = release.file_name().to_string_lossy().into_owned();
        let work = run_dir.folder().join("image");
        fs::create_dir(&work)?;
        let (tar, root, tree) = (
            work.join("root.tar"),
            work.join("root.erofs"),
            work.join("root.verity"),
        );
        let out = BufWriter::new(File::create(&tar)?);
        small_root([&tools, &bus], &programs, &plan)?.write(out)?;
        verity::erofs(&tools, &tar, &root)?;
        let root_hash = verity::format(&tools, &root, &tree)?;
        let initrd = initrd::build(&tools, &release, &programs, &plan, &work)?;
        Ok(Self {
            plan,
            tools,
            release,
            signing,
            work,
            root,
            tree,
            root_hash,
            initrd,
        })
    }

    /// The kernel image with one more argument, signed by this policy key.
    fn uki(&self, policy: &PolicyKey, argument: &str) -> Result<PathBuf> {
        let more = ["systemd.unit=sysinit.target", NO_TIMER_CHECK, argument];
        let plan = ImagePlan {
            cmdline: more.map(str::to_owned).to_vec(),
            ..self.plan.clone()
        };
        let arguments = sealed::arguments(&plan);
        let cmdline = uki::cmdline(&self.root_hash, &["ttyS0".to_owned()], &arguments);
        let contents = uki::Contents {
            release: &self.release,
            initrd: &self.initrd,
            cmdline: &cmdline,
            os_release: b"NAME=Firstlight\n",
        };
        let keys = uki::Keys {
            secure_boot: self.signing.as_ref(),
            policy: Some(policy),
        };
        uki::build(&self.tools, &contents, keys, &self.work)
    }

    /// A new disk.
    pub fn disk(&self, name: &str, policy: &PolicyKey, argument: &str) -> Result<PathBuf> {
        let path = self.work.join(format!("{name}.raw"));
        let parts = Parts {
            uki: &self.uki(policy, argument)?,
            root: &self.root,
            verity: &self.tree,
            root_hash: &self.root_hash,
            seed: &[],
        };
        image::disk::write(&parts, &path)?;
        Ok(path)
    }

    /// Replaces the kernel image of a disk, as an update of the image does.
    pub fn update(&self, path: &Path, policy: &PolicyKey, argument: &str) -> Result<()> {
        let new = self.disk("update", policy, argument)?;
        let (from, to) = (
            disk::partition(&new, ESP_PARTITION)?,
            disk::partition(path, ESP_PARTITION)?,
        );
        ensure!(from == to, "the partitions of the images differ");
        let (source, target) = (File::open(&new)?, File::options().write(true).open(path)?);
        let mut bytes = vec![0; usize::try_from(from.length)?];
        source.read_exact_at(&mut bytes, from.offset)?;
        target.write_all_at(&bytes, to.offset)?;
        fs::remove_file(new)?;
        Ok(())
    }
}

/// Debian's systemd and cryptsetup from the tools tree, D-Bus from the other one, firstboot, and
/// what imagegen adds for encrypted state.
fn small_root(trees: [&Tree; 2], programs: &Path, plan: &ImagePlan) -> Result<Archive> {
    let mut root = Archive::default();
    let folders = [
        "etc",
        "usr/bin",
        "usr/sbin",
        "usr/lib64",
        "usr/lib/systemd",
        "usr/lib/udev",
        "usr/lib/x86_64-linux-gnu",
        "usr/share/dbus-1",
    ];
    for tree in trees {
        for folder in folders {
            root.directory(folder, 0o755);
            root.host_folder(folder, &tree.path().join(folder))?;
        }
    }
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        root.symlink(link, target);
    }
    for path in [
        "usr/bin/perl",
        "usr/lib/x86_64-linux-gnu/perl",
        "etc/machine-id",
    ] {
        root.remove(path);
    }
    for folder in ["dev", "proc", "sys", "run", "tmp", "var", "root"] {
        root.directory(folder, 0o755);
    }
    root.file("etc/machine-id", 0o444, Vec::new());
    root.file("etc/fstab", 0o644, Vec::new());
    let release = fs::read(trees[0].path().join("usr/lib/os-release"))?;
    root.file("usr/lib/os-release", 0o644, release);
    let firstboot = programs.join("firstboot");
    root.host_file("usr/bin/firstboot", 0o755, &firstboot)?;
    let state = "usr/share/firstlight/state";
    for folder in ["etc/upper", "etc/work"] {
        root.directory(&format!("{state}/lib/firstlight/{folder}"), 0o755);
    }
    sealed::add(&mut root, plan)?;
    if plan.secure_boot.is_some() {
        // Such an image takes no units of the harness from outside.
        for (name, text) in report_files() {
            let path = format!("usr/lib/systemd/system/{name}");
            root.file(&path, 0o644, text.into_bytes());
        }
    }
    Ok(root)
}
