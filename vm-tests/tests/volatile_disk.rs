//! Power cuts of programs that need no machine, on a logged disk that this host mounts.
//!
//! `firstboot --root` writes a tree while another program commits the file system's journal all the
//! time, as journald and etcd do on a node. The same replay finds a careless program, so that its
//! silence about firstboot means something. `FIRSTLIGHT_CUTS` is the number of cuts,
//! `FIRSTLIGHT_SEED` chooses others, and `FIRSTLIGHT_FIRSTBOOT` is another static build of firstboot
//! to judge. Needs root for the mount; boots no machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_tests::host::artifacts::Programs;
use vm_tests::host::run_dir::RunDir;
use vm_tests::host::{Host, NO_SKIP, process};
use vm_tests::machine::disk::{self, Extent};
use vm_tests::power_cut::attached::Attached;
use vm_tests::power_cut::cut::{Cut, Random};
use vm_tests::power_cut::disk::{AfterCut, Replay};
use vm_tests::power_cut::ext4;
use vm_tests::power_cut::log::Log;
use vm_tests::power_cut::{self, number};

const DISK_SIZE: u64 = 64 << 20;

/// Written and synced all the time, so that the journal is committed between any two calls.
const NOISE: &str = "noise";

#[test]
fn rename_without_a_sync_is_found_and_with_a_sync_loses_nothing() -> Result<()> {
    let Some(host) = root_host()? else {
        return Ok(());
    };
    let run_dir = RunDir::new("volatile_disk_rename")?;
    let mut torn = BTreeMap::new();
    for syncs in [false, true] {
        let name = if syncs { "careful" } else { "careless" };
        let work = |mount: &Path| {
            let mut file = File::create(mount.join("new"))?;
            file.write_all(&[b'x'; 20000])?;
            if syncs {
                file.sync_all()?;
            }
            fs::rename(mount.join("new"), mount.join("file"))?;
            // It commits the journal, and with it the rename.
            let mut other = File::create(mount.join("other"))?;
            other.write_all(b"other")?;
            Ok(other.sync_all()?)
        };
        let recorded = record(&host, &run_dir, name, None, &work)?;
        let mut count = 0;
        each_cut(&host, &recorded, 200, |_, after| {
            let found = ext4::cat(host.tools(), after.state(), "/file")?;
            count += usize::from(found.is_some_and(|bytes| bytes != [b'x'; 20000]));
            Ok(())
        })?;
        torn.insert(name, count);
    }
    println!("cuts with an unfinished file, of 200: {torn:?}");
    ensure!(torn["careless"] > 0, "no cut finds the unfinished file");
    ensure!(torn["careful"] == 0, "a synced file is lost: {torn:?}");
    run_dir.passed();
    Ok(())
}

#[test]
fn firstboot_loses_nothing_by_a_power_cut() -> Result<()> {
    let Some(host) = root_host()? else {
        return Ok(());
    };
    let run_dir = RunDir::new("volatile_disk_firstboot")?;
    let firstboot = match std::env::var_os("FIRSTLIGHT_FIRSTBOOT") {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => Programs::build_static()?.join("firstboot"),
    };
    let fresh = run_dir.folder().join("fresh");
    prepare(&fresh.join("root"))?;
    let before = tree(&fresh.join("root"))?;
    let after_path = run_dir.folder().join("after");
    let work = |mount: &Path| {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let noise = scope.spawn(|| commit(mount, &is_over));
            let ran = run(&firstboot, &mount.join("root"));
            is_over.store(true, Ordering::Relaxed);
            ran?;
            noise
                .join()
                .map_err(|_| anyhow::anyhow!("the noise panicked"))?
        })?;
        process::run(
            Command::new("cp")
                .arg("-a")
                .arg(mount.join("root"))
                .arg(&after_path),
        )?;
        Ok(())
    };
    let recorded = record(&host, &run_dir, "firstboot", Some(&fresh), &work)?;
    let after = tree(&after_path)?;
    ensure!(after.len() > before.len() + 5, "firstboot wrote nothing");
    let mut lost = Vec::new();
    let cuts = number("FIRSTLIGHT_CUTS", 200)?;
    let mut stages = BTreeMap::<usize, usize>::new();
    each_cut(&host, &recorded, cuts, |number, disk| {
        let scratch = tempfile::tempdir_in(run_dir.folder())?;
        ext4::dump(host.tools(), disk.state(), "/root", scratch.path())?;
        let root = scratch.path().join("root");
        let found = tree(&root)?;
        let new = found.keys().filter(|path| !before.contains_key(*path));
        *stages.entry(new.count()).or_default() += 1;
        let mut reasons: Vec<_> = found
            .iter()
            .filter_map(|(path, bytes)| unfinished(path, bytes, &before, &after))
            .collect();
        // What is left is a boot's begin, and the next boot ends as if nothing had happened.
        match run(&firstboot, &root) {
            Err(error) => reasons.push(format!("the next run fails: {error:#}")),
            Ok(()) => reasons.extend(difference(&tree(&root)?, &after)),
        }
        if !reasons.is_empty() {
            lost.push(format!("cut {number}: {}", reasons.join("; ")));
        }
        Ok(())
    })?;
    println!(
        "{cuts} cuts, {} lost; new files on the disk: cuts {stages:?}",
        lost.len()
    );
    ensure!(lost.is_empty(), "{}", lost.join("\n"));
    ensure!(stages.len() > 5, "the cuts see too few moments: {stages:?}");
    run_dir.passed();
    Ok(())
}

fn root_host() -> Result<Option<Host>> {
    if !nix::unistd::geteuid().is_root() {
        ensure!(std::env::var_os(NO_SKIP).is_none(), "mounts need root");
        eprintln!("skipped: mounts need root");
        return Ok(None);
    }
    Host::ready().map(Some)
}

/// A disk and the log of what was written to it.
struct Recorded {
    base: PathBuf,
    log: Log,
    folder: PathBuf,
}

/// Runs `work` on a new disk, which has the files of `content`.
fn record(
    host: &Host,
    run_dir: &RunDir,
    name: &str,
    content: Option<&Path>,
    work: &dyn Fn(&Path) -> Result<()>,
) -> Result<Recorded> {
    let folder = run_dir.folder().join(format!("{name}-files"));
    fs::create_dir(&folder)?;
    let base = disk::empty(run_dir, name, DISK_SIZE)?.path;
    let mut mkfs = host.tools().command("sbin/mke2fs", None);
    mkfs.args(["-q", "-F", "-t", "ext4"]);
    if let Some(content) = content {
        mkfs.arg("-d").arg(content);
    }
    process::run(mkfs.arg(&base))?;
    let used = disk::private_copy(run_dir, &format!("{name}-used"), &base)?;
    let path = run_dir.folder().join(format!("{name}.log"));
    let attached = Attached::mount(host.tools(), &used, &path, &folder)?;
    work(attached.path())?;
    attached.detach()?;
    Ok(Recorded {
        base,
        log: Log::open(&[path])?,
        folder,
    })
}

/// Shows the disk to `judge` after each of `count` cuts, with a recovered file system.
fn each_cut(
    host: &Host,
    recorded: &Recorded,
    count: usize,
    mut judge: impl FnMut(usize, &AfterCut) -> Result<()>,
) -> Result<()> {
    let (log, unit) = (&recorded.log, power_cut::unit()?);
    let mut random = Random::new(u64::try_from(number("FIRSTLIGHT_SEED", 1)?)?);
    let mut cuts: Vec<(usize, Cut)> = (0..count)
        .map(|number| {
            let at = random.below(log.entries().len() + 1);
            let cut = Cut::choose(at, &mut random);
            (number, Cut { unit, ..cut })
        })
        .collect();
    cuts.sort_by_key(|(number, cut)| (cut.flushed(log), *number));
    let whole = Extent {
        offset: 0,
        length: DISK_SIZE,
    };
    let mut replay = Replay::new(log, &recorded.base, whole, &recorded.folder)?;
    for (number, cut) in cuts {
        let after = replay.after(&cut)?;
        if let Some(why) = ext4::recover(host.tools(), after.state())? {
            anyhow::bail!("cut {number}, {cut:?}: {why}");
        }
        judge(number, &after).with_context(|| format!("cut {number}, {cut:?}"))?;
    }
    Ok(())
}

/// The machine of `.ci/kill-campaign`.
fn prepare(root: &Path) -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::create_dir_all(root.join("etc"))?;
    let fixtures = workspace.join("firstboot/tests/fixtures/root/.");
    process::run(Command::new("cp").arg("-a").arg(fixtures).arg(root))?;
    for (path, text) in [
        ("sys/class/net/eth0/address", "52:54:00:00:07:10\n"),
        ("sys/class/dmi/id/product_serial", "SN-1\n"),
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        fs::write(path, text)?;
    }
    fs::create_dir_all(root.join("sys/class/net/eth0/device"))?;
    let pod = root.join("usr/share/firstlight/lvscare.yaml");
    fs::copy(workspace.join("lvscare/deploy/pod.yaml"), pod)?;
    Ok(())
}

fn run(firstboot: &Path, root: &Path) -> Result<()> {
    let seed = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../firstboot/tests/fixtures/sources/alone"
    );
    let mut command = Command::new(firstboot);
    command.arg("--root").arg(root).args(["--seed", seed]);
    process::run(&mut command).map(drop)
}

/// Commits the journal of the disk until `is_over`.
fn commit(mount: &Path, is_over: &AtomicBool) -> Result<()> {
    let mut file = File::create(mount.join(NOISE))?;
    while !is_over.load(Ordering::Relaxed) {
        file.write_all(b"x")?;
        file.sync_all()?;
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// The files of a tree with mode and content; links with their targets.
fn tree(root: &Path) -> Result<BTreeMap<String, (u32, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let doing = || format!("reading `{}`", folder.display());
        for entry in fs::read_dir(&folder).with_context(doing)? {
            let path = entry.with_context(doing)?.path();
            let meta = path.symlink_metadata()?;
            let name = path.strip_prefix(root)?.display().to_string();
            if meta.is_dir() {
                folders.push(path);
            } else if meta.is_symlink() {
                let target = fs::read_link(&path)?.display().to_string();
                files.insert(name, (0, target.into_bytes()));
            } else {
                files.insert(name, (meta.permissions().mode(), fs::read(&path)?));
            }
        }
    }
    Ok(files)
}

type Files = BTreeMap<String, (u32, Vec<u8>)>;

/// Why a file is not as it was, as it will be, or in the making.
fn unfinished(path: &str, found: &(u32, Vec<u8>), before: &Files, after: &Files) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or_default();
    if name.starts_with('.') && name.ends_with(".firstboot")
        || [before, after]
            .iter()
            .any(|tree| tree.get(path) == Some(found))
    {
        return None;
    }
    // These grow: every version is JSON.
    if path.ends_with("/receipt.json") || path.ends_with("/applied.json") {
        let error = serde_json::from_slice::<serde_json::Value>(&found.1).err()?;
        return Some(format!("`{path}` is not JSON: {error}"));
    }
    Some(format!("`{path}` is unfinished: {} bytes", found.1.len()))
}

fn difference(found: &Files, after: &Files) -> Option<String> {
    let kept = |files: &Files| -> Files {
        let files = files
            .iter()
            .filter(|(path, _)| !path.ends_with("/receipt.json"));
        files
            .map(|(path, file)| (path.clone(), file.clone()))
            .collect()
    };
    let (found, after) = (kept(found), kept(after));
    let differs = |path: &&String| found.get(*path) != after.get(*path);
    let path = found.keys().chain(after.keys()).find(differs)?;
    Some(format!("`{path}` differs after the next run"))
}
