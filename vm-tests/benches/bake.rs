//! Time and memory of baking an image, by stage, beside the standard tools on the same input in
//! the same run.
//!
//! The input is one tar archive of the default package. Beside the stage `package` (unpack the
//! archive and the layers of its images) stand `tar --extract` and `skopeo copy` of each image to a
//! folder. Beside `root` and `erofs` (compose the root, compress it) stands mkfs.erofs, with
//! imagegen's own options, on a folder of the same files.
//!
//! `cargo bench -p vm-tests --bench bake`, as root. `FIRSTLIGHT_ROUNDS` is the number of rounds (3);
//! a round takes five minutes on two cores. It also bakes a package with 1 GiB more of image, which
//! shows whether memory grows with the package.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use build_tools::cache::Cache;
use build_tools::debian_tree::Tree;
use build_tools::process;
use build_tools::progress::Progress;
use imagegen::image::{tools, verity};
use imagegen::plan::Kernel;
use userdata::contract::ROOT_PARTITION;
use vm_tests::host::artifacts::{Programs, package, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::disk;
use vm_tests::stats::{ratio, rounds, spread};

/// Added to the package for the second bake.
const MORE: u64 = 1 << 30;

fn main() -> Result<()> {
    // `cargo test --benches` runs this program too, without `--bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let progress = Progress::stderr();
    let cache = Cache::open()?;
    let bench = Bench {
        imagegen: Programs::build_imagegen_release()?,
        programs: Programs::build_static()?,
        skopeo: process::require("skopeo", "skopeo")?,
        tools: tools(&cache, Kernel::Cloud, &progress)?,
        run_dir: RunDir::new("bake-bench")?,
    };
    let source = package(&cache, &progress)?;
    let archive = bench.run_dir.folder().join("package.tar");
    process::run(
        Command::new("tar")
            .args(["--sort=name", "--create", "--file"])
            .arg(&archive)
            .arg("--directory")
            .args([&source, Path::new(".")]),
    )?;
    // The first bake also fills the caches of imagegen and of the kernel; it is not counted.
    let first = bench.bake(&archive, "first")?;
    let root = bench.root_folder(&first.image)?;

    let mut bakes = Vec::new();
    let mut peers = Vec::new();
    for round in 1..=rounds() {
        let bake = bench.bake(&archive, "bake")?;
        let peer = bench.peers(&archive, &root)?;
        println!(
            "round {round}: imagegen {:.1} s, {:.0} MB; {peer:.1?}",
            bake.wall.as_secs_f64(),
            megabytes(bake.memory)
        );
        bakes.push(bake);
        peers.push(peer);
    }
    let larger = bench.larger(&archive)?;
    let grown = bench.bake(&larger, "larger")?;
    report(&bakes, &peers, &grown);
    bench.run_dir.passed();
    Ok(())
}

struct Bench {
    imagegen: PathBuf,
    /// The static programs for images.
    programs: PathBuf,
    skopeo: PathBuf,
    tools: Tree,
    run_dir: RunDir,
}

struct Bake {
    image: PathBuf,
    wall: Duration,
    stages: Vec<(String, Duration)>,
    /// The most memory that imagegen itself had resident, in bytes.
    memory: u64,
}

/// Durations of the peers in one round.
#[derive(Debug)]
struct Peers {
    tar: Duration,
    skopeo: Duration,
    mkfs: Duration,
}

impl Bench {
    /// Bakes `package` to a new folder.
    fn bake(&self, package: &Path, name: &str) -> Result<Bake> {
        let out = self.fresh(name)?;
        let log = File::create(self.run_dir.folder().join(format!("{name}.log")))?;
        let mut imagegen = Command::new(&self.imagegen);
        imagegen.arg("image").arg("--topology").arg(topology("one"));
        imagegen.arg("--package").arg(package);
        imagegen.arg("--programs").arg(&self.programs);
        imagegen.arg("--output").arg(&out);
        imagegen.stdin(Stdio::null());
        imagegen.stdout(log.try_clone()?).stderr(log);
        let start = Instant::now();
        let memory = peak(imagegen.spawn().context("starting imagegen")?)
            .with_context(|| format!("`{imagegen:?}`; its messages are in {name}.log"))?;
        let wall = start.elapsed();
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(out.join("manifest.json"))?)?;
        let stages = serde_json::from_value(manifest["image"]["stages"].clone())
            .context("the manifest has no stages")?;
        let stages: Vec<(String, u64)> = stages;
        let stages = stages
            .into_iter()
            .map(|(stage, millis)| (stage, Duration::from_millis(millis)))
            .collect();
        Ok(Bake {
            image: out.join("node.raw"),
            wall,
            stages,
            memory,
        })
    }

    /// The files of the baked root, in a folder.
    fn root_folder(&self, image: &Path) -> Result<PathBuf> {
        let root = self.run_dir.folder().join("root.erofs");
        disk::copy_partition(image, ROOT_PARTITION, &root)?;
        let folder = self.run_dir.folder().join("root");
        let mut fsck = self.tools.program("fsck.erofs")?;
        fsck.arg(format!("--extract={}", folder.display()));
        process::run(fsck.arg("--preserve").arg(&root))?;
        Ok(folder)
    }

    fn peers(&self, archive: &Path, root: &Path) -> Result<Peers> {
        let unpacked = self.fresh("unpacked")?;
        fs::create_dir(&unpacked)?;
        let tar = timed(
            Command::new("tar")
                .arg("--extract")
                .arg("--file")
                .arg(archive)
                .arg("--directory")
                .arg(&unpacked),
        )?;
        let mut skopeo = Duration::ZERO;
        let folder = unpacked.join("images");
        for entry in fs::read_dir(&folder)? {
            let image = entry?.path();
            let to = unpacked.join(image.file_name().context("an image without a name")?);
            let mut copy = Command::new(&self.skopeo);
            copy.args(["copy", "--insecure-policy", "--quiet"]);
            copy.arg(format!("docker-archive:{}", image.display()));
            copy.arg(format!("dir:{}.layers", to.display()));
            skopeo += timed(&mut copy)?;
        }
        let out = self.fresh("peer.erofs")?;
        let mut mkfs = self.tools.program("mkfs.erofs")?;
        let options = verity::MKFS
            .iter()
            .filter(|option| !option.starts_with("--tar"));
        mkfs.args(options.filter(|option| **option != "--mkfs-time"));
        let mkfs = timed(mkfs.arg(&out).arg(root))?;
        Ok(Peers { tar, skopeo, mkfs })
    }

    /// A package with [`MORE`] bytes that do not compress in one more image.
    fn larger(&self, archive: &Path) -> Result<PathBuf> {
        let folder = self.fresh("layer")?;
        fs::create_dir(&folder)?;
        let mut random = File::open("/dev/urandom")?.take(MORE);
        let mut file = File::create(folder.join("data"))?;
        std::io::copy(&mut random, &mut file)?;
        file.flush()?;
        let layer = self.run_dir.folder().join("layer.tar");
        let pack = |to: &Path, from: &Path, what: &[&str]| {
            let mut tar = Command::new("tar");
            tar.arg("--create").arg("--file").arg(to);
            process::run(tar.arg("--directory").arg(from).args(what))
        };
        pack(&layer, &folder, &["data"])?;
        fs::remove_file(folder.join("data"))?;
        let digest = process::output(Command::new("sha256sum").arg(&layer))?;
        let digest = String::from_utf8_lossy(&digest);
        let digest = digest.split(' ').next().unwrap_or_default();
        fs::rename(&layer, folder.join("layer.tar"))?;
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        });
        fs::write(folder.join("config.json"), config.to_string())?;
        let manifest = serde_json::json!([{
            "Config": "config.json", "RepoTags": ["example.com/large:1"], "Layers": ["layer.tar"],
        }]);
        fs::write(folder.join("manifest.json"), manifest.to_string())?;

        let package = self.fresh("larger-package")?;
        fs::create_dir(&package)?;
        let mut tar = Command::new("tar");
        tar.arg("--extract").arg("--file").arg(archive);
        process::run(tar.arg("--directory").arg(&package))?;
        let files = ["manifest.json", "config.json", "layer.tar"];
        pack(&package.join("images/large.tar"), &folder, &files)?;
        fs::remove_dir_all(&folder)?;
        let larger = self.run_dir.folder().join("larger.tar");
        pack(&larger, &package, &["."])?;
        fs::remove_dir_all(&package)?;
        Ok(larger)
    }

    /// A path in the run's folder where nothing is.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.run_dir.folder().join(name);
        match path.is_dir() {
            true => fs::remove_dir_all(&path)?,
            false if path.exists() => fs::remove_file(&path)?,
            false => {}
        }
        Ok(path)
    }
}

/// Waits for `child`, and returns the most memory it had resident, in bytes.
fn peak(mut child: Child) -> Result<u64> {
    let path = format!("/proc/{}/status", child.id());
    let mut most = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "{status}");
            ensure!(most > 0, "its memory was not seen");
            return Ok(most);
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        most = most.max(kib.unwrap_or(0) * 1024);
        thread::sleep(Duration::from_millis(20));
    }
}

fn timed(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    process::run(command)?;
    Ok(start.elapsed())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn report(bakes: &[Bake], peers: &[Peers], grown: &Bake) {
    println!(
        "baking the default package, {} rounds; median (lowest-highest)",
        bakes.len()
    );
    let all: Vec<Duration> = bakes.iter().map(|bake| bake.wall).collect();
    println!("  {:<28} {}", "whole", spread(&all));
    let of = |names: &[&str]| -> Vec<Duration> {
        let sum = |bake: &Bake| {
            let stages = bake.stages.iter();
            stages
                .filter(|(name, _)| names.contains(&name.as_str()))
                .map(|(_, took)| *took)
                .sum()
        };
        bakes.iter().map(sum).collect()
    };
    for (name, _) in bakes.first().map_or(&[][..], |bake| &bake.stages) {
        println!("  {name:<28} {}", spread(&of(&[name])));
    }
    let unpack: Vec<Duration> = peers.iter().map(|peer| peer.tar + peer.skopeo).collect();
    let mkfs: Vec<Duration> = peers.iter().map(|peer| peer.mkfs).collect();
    let tar: Vec<Duration> = peers.iter().map(|peer| peer.tar).collect();
    println!("  {:<28} {}", "tar --extract", spread(&tar));
    println!("  {:<28} {}", "tar and skopeo copy", spread(&unpack));
    println!(
        "  {:<28} {}",
        "package, of tar and skopeo",
        ratio(&of(&["package"]), &unpack)
    );
    println!("  {:<28} {}", "mkfs.erofs of a folder", spread(&mkfs));
    println!(
        "  {:<28} {}",
        "root and erofs, of mkfs",
        ratio(&of(&["root", "erofs"]), &mkfs)
    );
    let memory: Vec<u64> = bakes.iter().map(|bake| bake.memory).collect();
    let most = memory.iter().max().copied().unwrap_or_default();
    println!(
        "  imagegen's memory at most {:.1} MB; with {} MiB more of image {:.1} MB ({:.1} s)",
        megabytes(most),
        MORE >> 20,
        megabytes(grown.memory),
        grown.wall.as_secs_f64()
    );
}
