//! `imagegen iso`: a boot medium for virtual media of a BMC, optical drives and sticks.
//!
//! An ISO 9660 file system with root, hash tree and documents, and a FAT volume with the EFI
//! program, which the boot catalogue and a GPT both name: firmware starts it from a drive and from
//! a stick. The kernel finds the file system by its root hash.

use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use build_tools::cache::Cache;
use build_tools::debian_tree::SOURCE_DATE_EPOCH;
use build_tools::process;
use build_tools::progress::Progress;
use sha2::{Digest as _, Sha256};

use crate::digest::digest_file;
use crate::image::{live, vfat};
use crate::output::beneath;
use crate::output::manifest::Manifest;
use crate::pipeline::pxe::{self, PXE};

/// The file system's label. Not `cidata`: the documents are not at its root.
const LABEL: &str = "FIRSTLIGHT";
const ESP_TYPE: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const MIB: u64 = 1 << 20;
/// Files of a document.
const DOCUMENT: [&str; 3] = ["user-data", "meta-data", "network-config"];

/// Whose documents are on the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose<'a> {
    Host(&'a str),
    /// Of every host: each machine takes its own.
    All,
}

/// Writes the medium of the output folder `folder` to the file `out`, which appears complete or
/// not at all.
pub fn write(folder: &Path, whose: Whose<'_>, out: &Path, progress: &Progress) -> Result<()> {
    let manifest = pxe::check(folder)?;
    let report = manifest.image.as_ref().context("no node image")?;
    let documents = documents(folder, &manifest, whose)?;
    check_target(folder, &manifest, out)?;
    let stage = progress.stage("checking the files");
    for name in [live::MEDIUM, live::ROOT, live::TREE] {
        let name = format!("{PXE}/{name}");
        let same = manifest.outputs.get(&name) == Some(&digest_file(&folder.join(&name))?);
        ensure!(
            same,
            "`{}` is damaged: its digest differs from the manifest's; make it again with \
             `imagegen image --pxe`",
            folder.join(&name).display()
        );
    }
    stage.done();
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Beside the result, so that it takes its place by a rename. It has private keys.
    let work = tempfile::Builder::new()
        .prefix(".firstlight-iso-")
        .tempdir_in(parent)
        .with_context(|| format!("creating a folder in `{}`", parent.display()))?;
    let seed = work.path().join("seed");
    for (name, bytes) in &documents {
        let path = seed.join(name);
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, bytes))
            .with_context(|| format!("writing `{}`", path.display()))?;
    }
    let hash = work.path().join("roothash");
    fs::write(&hash, format!("{}\n", report.root_hash)).context("writing the root hash")?;
    let esp = work.path().join("esp");
    volume(
        &folder.join(PXE).join(live::MEDIUM),
        &report.root_hash,
        &esp,
    )?;
    let stage = progress.stage("boot medium");
    let made = work.path().join("iso");
    let tree = live::tree(&Cache::open()?, progress)?;
    let mut xorriso = tree.program("xorriso")?;
    xorriso.env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string());
    // Without the configuration of the person who runs it.
    xorriso
        .args(["-no_rc", "-as", "mkisofs", "-quiet", "-o"])
        .arg(&made);
    xorriso.args([
        "-V",
        LABEL,
        "-iso-level",
        "3",
        "-r",
        "-partition_offset",
        "16",
    ]);
    // The documents' files are made for each medium, and their dates would be of today.
    xorriso.arg("--set_all_file_dates");
    xorriso.arg(format!("={SOURCE_DATE_EPOCH}"));
    xorriso
        .args(["-appended_part_as_gpt", "-append_partition", "2", ESP_TYPE])
        .arg(&esp);
    xorriso.args([
        "-e",
        "--interval:appended_partition_2:all::",
        "-no-emul-boot",
    ]);
    xorriso.arg("-graft-points");
    for (inside, outside) in [
        (live::ROOT, folder.join(PXE).join(live::ROOT)),
        (live::TREE, folder.join(PXE).join(live::TREE)),
        ("roothash", hash),
        ("seed", seed),
    ] {
        xorriso.arg(graft(&format!("/firstlight/{inside}"), &outside)?);
    }
    process::run(&mut xorriso)?;
    stage.done();
    let doing = || format!("publishing `{}`", out.display());
    let file = File::open(&made).with_context(doing)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))
        .with_context(doing)?;
    file.sync_all().with_context(doing)?;
    fs::rename(&made, out).with_context(doing)
}

/// Path on the medium and contents of each document.
fn documents(
    folder: &Path,
    manifest: &Manifest,
    whose: Whose<'_>,
) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let known = manifest
        .outputs
        .keys()
        .filter_map(|path| path.strip_prefix("hosts/")?.strip_suffix("/user-data"));
    let known: Vec<&str> = known.collect();
    let hosts: Vec<(&str, PathBuf)> = match whose {
        Whose::Host(name) if known.contains(&name) => vec![(name, PathBuf::new())],
        Whose::Host(name) => bail!(
            "`{}` has no host `{name}`; its hosts are {}",
            folder.display(),
            known.join(", ")
        ),
        Whose::All => {
            let place = |name: &&str| Path::new("hosts").join(name);
            known.iter().map(|name| (*name, place(name))).collect()
        }
    };
    let mut found = Vec::new();
    for (host, place) in hosts {
        for name in DOCUMENT {
            let path = format!("hosts/{host}/{name}");
            let bytes = beneath::read(folder, Path::new(&path))?;
            let bytes =
                bytes.with_context(|| format!("`{path}` is missing; run imagegen again"))?;
            let expected = manifest.outputs.get(&path);
            ensure!(
                expected == Some(&crate::digest::digest(&bytes)),
                "`{}` is not the file that imagegen wrote; run imagegen again",
                folder.join(&path).display()
            );
            found.push((place.join(name), bytes));
        }
    }
    Ok(found)
}

/// A result of imagegen must not be replaced, and neither a device nor a folder.
fn check_target(folder: &Path, manifest: &Manifest, out: &Path) -> Result<()> {
    let Ok(meta) = fs::symlink_metadata(out) else {
        return Ok(());
    };
    ensure!(
        meta.is_file(),
        "`{}` is not a file; write the medium to a file, and then to a stick with `dd`",
        out.display()
    );
    let own = manifest
        .outputs
        .keys()
        .filter_map(|path| fs::metadata(folder.join(path)).ok());
    let same = |other: fs::Metadata| (other.dev(), other.ino()) == (meta.dev(), meta.ino());
    ensure!(
        !own.into_iter().any(same),
        "`{}` is a result of imagegen; give another file",
        out.display()
    );
    Ok(())
}

/// The FAT volume with the EFI program.
fn volume(program: &Path, root_hash: &str, out: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("reading `{}`", program.display()))?;
    // File allocation tables and a rest.
    let size = (bytes.len() as u64 + bytes.len() as u64 / 64 + 2 * MIB).next_multiple_of(MIB);
    let mut disk = Cursor::new(vec![
        0;
        usize::try_from(size).context("a program too large")?
    ]);
    let digest = Sha256::digest(root_hash);
    let id = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]);
    vfat::write(
        &mut disk,
        size,
        "ESP",
        id,
        &[("EFI/BOOT/BOOTX64.EFI", &bytes)],
    )?;
    fs::write(out, disk.into_inner()).with_context(|| format!("writing `{}`", out.display()))
}

/// xorriso's notation of a path on the medium and its source.
fn graft(inside: &str, outside: &Path) -> Result<String> {
    let outside = outside.to_str().context("the path is not UTF-8 text")?;
    let escaped = outside.replace('\\', "\\\\").replace('=', "\\=");
    Ok(format!("{inside}={escaped}"))
}
