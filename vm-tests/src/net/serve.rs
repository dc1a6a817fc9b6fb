//! `imagegen serve` in a machine room.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::process;
use crate::machine::vm::Vm;
use crate::net::room::{CARD, Room};

/// A server, which ends with this.
#[derive(Debug)]
pub struct Serve {
    process: Child,
    log: PathBuf,
}

impl Serve {
    /// Serves `folder`, an output folder of `imagegen`, with these further arguments. The log, which
    /// has dnsmasq's lines too, goes to a file.
    pub fn start(
        imagegen: &Path,
        folder: &Path,
        room: &Room,
        arguments: &[&str],
        log: &Path,
    ) -> Result<Self> {
        let output = fs::File::create(log)?;
        let mut serve = room.command(imagegen.to_str().context("a path in UTF-8")?);
        serve.arg("serve").arg(folder);
        serve
            .args(["--interface", CARD, "--verbose"])
            .args(arguments);
        serve
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        Ok(Self {
            process: serve.spawn().context("starting imagegen serve")?,
            log: log.to_owned(),
        })
    }

    /// All lines so far.
    pub fn log(&self) -> Result<String> {
        let bytes =
            fs::read(&self.log).with_context(|| format!("reading `{}`", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The files that `host` has fetched completely, in the order of its first boot.
    pub fn fetched(&self, host: &str) -> Result<Vec<String>> {
        let mut files = Vec::new();
        for line in self.log()?.lines() {
            let found = line
                .split_once(&format!(" {host}: "))
                .and_then(|(_, rest)| rest.strip_suffix(" fetched"));
            if let Some(file) = found.filter(|file| !files.iter().any(|known| known == file)) {
                files.push(file.to_owned());
            }
        }
        Ok(files)
    }

    /// Waits until `host`, which is `vm`, has fetched `file`. `guest` is the deadline with KVM.
    pub fn wait_for(&self, host: &str, file: &str, vm: &Vm, guest: Duration) -> Result<()> {
        let end = std::time::Instant::now() + vm.wall(guest);
        while !self.fetched(host)?.iter().any(|found| found == file) {
            if std::time::Instant::now() > end || !vm.is_running() {
                let log = process::tail(&self.log()?, 40);
                let console = vm.console().tail(12);
                bail!("{host} has not fetched {file}:\n{log}\nits console:\n{console}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // It ends dnsmasq too, which a killed one could not.
        let id = self.process.id().to_string();
        let _ = process::run(Command::new("kill").arg(id));
        let _ = self.process.wait();
    }
}
