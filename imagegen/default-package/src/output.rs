//! A package's folder as what a person asked for: a copy of the folder, or an archive.
//!
//! The output appears whole or not at all. An existing file is replaced; an existing folder is not,
//! because it may hold more than a package.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::tarball::Tarball;
use build_tools::process;
use build_tools::progress::Progress;

/// Between the speed of 3 and the size of 19: programs shrink little more, and slowly, above it.
const LEVEL: i32 = 9;
/// The encoder with workers writes the same bytes for any number of them, but other bytes than
/// without.
const WORKERS: u32 = 2;
/// 128 MiB: so far back a copy is found; the base of two images is the same.
const WINDOW_LOG: u32 = 27;

/// What `output` becomes.
enum Form {
    Folder,
    Tar { compress: bool },
}

fn form(output: &Path) -> Result<Form> {
    let name = output
        .file_name()
        .and_then(|n| n.to_str())
        .context("the package's output has no name")?;
    if name.ends_with(".tar") || name.ends_with(".tar.zst") {
        let compress = name.ends_with(".zst");
        return Ok(Form::Tar { compress });
    }
    let others = [".tgz", ".gz", ".xz", ".zip"];
    if others.iter().any(|end| name.ends_with(end)) {
        bail!(
            "cannot write `{}`: a package is written as a folder, .tar or .tar.zst",
            output.display()
        );
    }
    let empty = fs::read_dir(output)
        .map(|mut entries| entries.next().is_none())
        .unwrap_or(!output.exists());
    ensure!(
        empty,
        "`{}` is already there; remove it or choose another output",
        output.display()
    );
    Ok(Form::Folder)
}

/// Fails if [`write()`] cannot write to `output`, before the work for it starts.
pub fn check(output: &Path) -> Result<()> {
    form(output).map(drop)
}

/// Writes a copy of `folder`, or an archive of it if `output` ends in `.tar` or `.tar.zst`.
pub fn write(folder: &Path, output: &Path, progress: &Progress) -> Result<()> {
    let form = form(output)?;
    let parent = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).with_context(|| format!("creating `{}`", parent.display()))?;
    let stage = progress.stage(format_args!("writing {}", output.display()));
    match form {
        Form::Tar { compress } => {
            let mut file = tempfile::NamedTempFile::new_in(parent)
                .with_context(|| format!("creating a file in `{}`", parent.display()))?;
            archive(folder, file.as_file_mut(), compress)
                .with_context(|| format!("writing `{}`", output.display()))?;
            file.as_file()
                .sync_all()
                .with_context(|| format!("syncing `{}`", output.display()))?;
            use std::os::unix::fs::PermissionsExt as _;
            file.as_file()
                .set_permissions(fs::Permissions::from_mode(0o644))?;
            file.persist(output)
                .with_context(|| format!("writing `{}`", output.display()))?;
        }
        Form::Folder => {
            let scratch = tempfile::tempdir_in(parent)
                .with_context(|| format!("creating a folder in `{}`", parent.display()))?;
            let copy = scratch.path().join("package");
            process::run(
                Command::new("cp")
                    .args(["-a", "--reflink=auto"])
                    .arg(folder)
                    .arg(&copy),
            )?;
            fs::rename(&copy, output).with_context(|| format!("writing `{}`", output.display()))?;
        }
    }
    stage.done();
    Ok(())
}

fn archive(folder: &Path, file: &mut File, compress: bool) -> Result<()> {
    let out = BufWriter::with_capacity(1 << 20, file);
    if !compress {
        let mut tarball = Tarball::new(out);
        tarball.tree(folder, "")?;
        tarball.finish()?.flush()?;
        return Ok(());
    }
    let mut packer = zstd::Encoder::new(out, LEVEL)?;
    packer.multithread(WORKERS)?;
    packer.window_log(WINDOW_LOG)?;
    packer.long_distance_matching(true)?;
    packer.include_checksum(true)?;
    let mut tarball = Tarball::new(packer);
    tarball.tree(folder, "")?;
    tarball.finish()?.finish()?.flush()?;
    Ok(())
}
