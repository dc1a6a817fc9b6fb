//! The folder of one test run. It holds the machines' disks and the evidence of a failure.
//!
//! A run counts as failed unless the test calls [`RunDir::passed`], which deletes the folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

/// If set, every run keeps its folder with the disks.
pub const KEEP: &str = "FIRSTLIGHT_KEEP";

/// Folders of runs that are older are deleted.
const OLD: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
pub struct RunDir {
    folder: PathBuf,
    /// A folder with a short name, because a socket's path may have 107 bytes at most.
    sockets: tempfile::TempDir,
    passed: bool,
    keep: bool,
}

impl RunDir {
    /// Creates the folder of the run `name`, which is named after its test.
    pub fn new(name: &str) -> Result<Self> {
        let runs = target_dir().join("vm-tests/runs");
        fs::create_dir_all(&runs).with_context(|| format!("creating `{}`", runs.display()))?;
        remove_old(&runs);
        let folder = runs.join(format!("{name}-{}", std::process::id()));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir(&folder).with_context(|| format!("creating `{}`", folder.display()))?;
        let sockets = tempfile::Builder::new()
            .prefix("firstlight-")
            .tempdir_in("/tmp")?;
        Ok(Self {
            folder,
            sockets,
            passed: false,
            keep: std::env::var_os(KEEP).is_some_and(|value| !value.is_empty()),
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Creates a folder for the sockets of one machine or switch.
    pub fn sockets(&self, name: &str) -> Result<PathBuf> {
        let folder = self.sockets.path().join(name);
        fs::create_dir(&folder).with_context(|| format!("creating `{}`", folder.display()))?;
        Ok(folder)
    }

    /// Keeps the folder with the disks in any case, as [`KEEP`] does.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// The test has passed: nothing is kept.
    pub fn passed(mut self) {
        self.passed = true;
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("kept: {}", self.folder.display());
        } else if self.passed {
            let _ = fs::remove_dir_all(&self.folder);
        } else {
            // Disks are large and rarely explain a failure; console, journal, screen and arguments
            // do.
            remove_disks(&self.folder);
            eprintln!("evidence: {}", self.folder.display());
        }
    }
}

/// The target folder of this workspace.
pub fn target_dir() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."));
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => workspace.join(dir),
        _ => workspace.join("target"),
    }
}

fn remove_old(runs: &Path) {
    let old = SystemTime::now() - OLD;
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|meta| meta.modified());
        if modified.is_ok_and(|time| time < old) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn remove_disks(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_disks(&path);
        } else if path.extension().is_some_and(|end| {
            ["qcow2", "img", "raw", "state"]
                .iter()
                .any(|disk| end == *disk)
        }) {
            let _ = fs::remove_file(path);
        }
    }
}
