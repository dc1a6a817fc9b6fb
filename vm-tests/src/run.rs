//! A folder per test run: evidence while it runs, and afterwards only if it failed.
//!
//! Failure is the default: whoever is content says so with [`Run::passed`].

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

/// Set to keep every run's folder, disks included.
pub const KEEP: &str = "FIRSTLIGHT_KEEP";

/// Comparing two runs is normal work; comparing with last week's is not.
const OLD: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    /// Sockets lie in a folder with a short name: a socket's path may have 107 bytes.
    sockets: tempfile::TempDir,
    passed: bool,
    keep: bool,
}

impl Run {
    /// Makes the folder for a run called `name`, after its test.
    pub fn new(name: &str) -> Result<Self> {
        let runs = target_dir().join("vm-tests/runs");
        fs::create_dir_all(&runs).with_context(|| format!("creating `{}`", runs.display()))?;
        tidy(&runs);
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

    /// A new folder for the sockets of one machine or switch.
    pub fn sockets(&self, name: &str) -> Result<PathBuf> {
        let folder = self.sockets.path().join(name);
        fs::create_dir(&folder).with_context(|| format!("creating `{}`", folder.display()))?;
        Ok(folder)
    }

    /// Keeps all of the folder whatever comes, as [`KEEP`] does.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// The claim holds: nothing is kept.
    pub fn passed(mut self) {
        self.passed = true;
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("kept: {}", self.folder.display());
        } else if self.passed {
            let _ = fs::remove_dir_all(&self.folder);
        } else {
            // Disks are large and say little; console, journal, screen and arguments stay.
            remove_disks(&self.folder);
            eprintln!("evidence: {}", self.folder.display());
        }
    }
}

/// Cargo's target folder of this workspace.
pub fn target_dir() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."));
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => workspace.join(dir),
        _ => workspace.join("target"),
    }
}

fn tidy(runs: &Path) {
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
