//! A logged disk that this host mounts, for programs that need no machine.
//!
//! QEMU's storage daemon exports the disk as a file by FUSE, with the driver that logs a machine's
//! disk, and a loop device of this host is mounted on it. It needs root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::host::debian_tools::DebianTools;
use crate::host::process;

/// The daemon exports within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A mounted disk. [`Attached::detach`] completes its log.
#[derive(Debug)]
pub struct Attached {
    /// `None` once it has ended.
    daemon: Option<Child>,
    device: Option<String>,
    mount: PathBuf,
}

impl Attached {
    /// Mounts the raw disk `disk`, and keeps its writes in the new file `log`. `folder` is empty.
    pub fn mount(tools: &DebianTools, disk: &Path, log: &Path, folder: &Path) -> Result<Self> {
        let export = folder.join("export");
        for file in [log, &export] {
            File::create(file).with_context(|| format!("creating `{}`", file.display()))?;
        }
        let mount = folder.join("mount");
        fs::create_dir(&mount)?;
        let file = |name: &str, path: &Path| {
            format!(
                "driver=file,node-name={name},filename={},cache.no-flush=on",
                path.display()
            )
        };
        let mut command = tools.command("bin/qemu-storage-daemon", None);
        command.args(["--blockdev", &file("disk", disk)]);
        command.args(["--blockdev", &file("log", log)]);
        command.args([
            "--blockdev",
            "driver=blklogwrites,node-name=logged,file=disk,log=log",
        ]);
        let fuse = format!(
            "type=fuse,id=export,node-name=logged,writable=on,mountpoint={}",
            export.display()
        );
        command.args(["--export", &fuse]);
        let daemon = command.spawn().context("starting qemu-storage-daemon")?;
        let mut attached = Self {
            daemon: Some(daemon),
            device: None,
            mount,
        };
        attached.wait_for(&export, fs::metadata(disk)?.len())?;
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--direct-io=on"]);
        let device = process::run(losetup.arg(&export))?;
        let device = String::from_utf8_lossy(&device).trim().to_owned();
        attached.device = Some(device.clone());
        process::run(Command::new("mount").arg(device).arg(&attached.mount))?;
        Ok(attached)
    }

    /// Waits until the file is the disk.
    fn wait_for(&mut self, export: &Path, length: u64) -> Result<()> {
        let end = Instant::now() + TIMEOUT;
        while fs::metadata(export).map_or(0, |meta| meta.len()) != length {
            let status = self.daemon.as_mut().map(Child::try_wait).transpose()?;
            if let Some(status) = status.flatten() {
                anyhow::bail!("qemu-storage-daemon: {status}");
            }
            ensure!(Instant::now() < end, "qemu-storage-daemon exports no disk");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Unmounts the disk and ends its log.
    pub fn detach(mut self) -> Result<()> {
        process::run(Command::new("umount").arg(&self.mount))?;
        if let Some(device) = self.device.take() {
            process::run(Command::new("losetup").args(["--detach", &device]))?;
        }
        // At this signal the daemon removes its exports and completes all requests.
        let mut daemon = self.daemon.take().context("the daemon has ended")?;
        process::run(Command::new("kill").arg(daemon.id().to_string()))?;
        let status = daemon.wait().context("waiting for the daemon")?;
        ensure!(status.success(), "qemu-storage-daemon: {status}");
        Ok(())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(device) = self.device.take() {
            let _ = Command::new("umount")
                .arg("--lazy")
                .arg(&self.mount)
                .status();
            let _ = Command::new("losetup").args(["--detach", &device]).status();
        }
        if let Some(mut daemon) = self.daemon.take() {
            process::end(&mut daemon);
        }
    }
}
