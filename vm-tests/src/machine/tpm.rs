//! The TPM of a machine: a process of swtpm that QEMU talks to over a socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::qemu::{Arguments, escape};
use crate::host::debian_tools::DebianTools;

/// A running TPM. It ends with this value.
#[derive(Debug)]
pub(super) struct Tpm(Child);

/// The socket in the folder of a machine's sockets.
pub(super) fn socket(sockets: &Path) -> PathBuf {
    sockets.join("tpm")
}

impl Tpm {
    /// Starts the TPM whose seeds and registers are in the folder `state`; a missing or empty folder
    /// is a new TPM. `evidence` gets its log.
    pub(super) fn start(
        tools: &DebianTools,
        state: &Path,
        sockets: &Path,
        evidence: &Path,
    ) -> Result<Self> {
        fs::create_dir_all(state).with_context(|| format!("creating `{}`", state.display()))?;
        let path = socket(sockets);
        let log = evidence.join("swtpm.log");
        let mut command = tools.command("bin/swtpm", None);
        command.args(["socket", "--tpm2", "--terminate", "--tpmstate"]);
        command.arg(format!("dir={}", state.display()));
        command.arg("--ctrl");
        command.arg(format!("type=unixio,path={}", path.display()));
        let out = fs::File::create(&log)?;
        command.stdin(Stdio::null());
        command.stdout(out.try_clone()?).stderr(out);
        let mut tpm = Self(command.spawn().context("starting swtpm")?);
        let end = Instant::now() + Duration::from_secs(30);
        // Its first connection is QEMU's: swtpm ends when that one does.
        while !path.exists() {
            if let Some(status) = tpm.0.try_wait()? {
                let text = fs::read_to_string(&log).unwrap_or_default();
                bail!("swtpm: {status}: {}", text.trim());
            }
            if Instant::now() > end {
                bail!("swtpm does not listen within 30 s");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(tpm)
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        // It locks its folder until it ends.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// QEMU's arguments.
pub(super) fn add(list: &mut Arguments, sockets: &Path) {
    let path = escape(&socket(sockets));
    list.add("-chardev", &format!("socket,id=tpm,path={path}"));
    list.add("-tpmdev", "emulator,id=tpm,chardev=tpm");
    list.add("-device", "tpm-crb,tpmdev=tpm");
}
