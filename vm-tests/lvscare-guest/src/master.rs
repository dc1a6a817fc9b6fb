//! One fake apiserver: a process of its own in a namespace of its own, and what can befall it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::Netns;

#[derive(Debug)]
pub(crate) struct Master {
    pub(crate) n: u8,
    pub(crate) address: SocketAddr,
    pub(crate) netns: Netns,
    switch: Netns,
    folder: PathBuf,
    child: Option<Child>,
}

impl Master {
    pub(crate) fn new(
        n: u8,
        address: SocketAddr,
        netns: Netns,
        switch: Netns,
        folder: &Path,
    ) -> Self {
        Self {
            n,
            address,
            netns,
            switch,
            folder: folder.to_path_buf(),
            child: None,
        }
    }

    /// Until it listens.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        self.behave("200")?;
        self.certificate("good")?;
        let program = std::env::current_exe()?;
        let mut command = Command::new(program);
        command
            .arg("apiserver")
            .arg(&self.folder)
            .arg(self.address.to_string())
            .arg(format!("m{}", self.n));
        self.child = Some(self.netns.start(&mut command)?);
        let deadline = Instant::now() + Duration::from_secs(20);
        let address = self.address;
        while self
            .netns
            .run(|| std::net::TcpStream::connect(address))
            .is_err()
        {
            ensure!(Instant::now() < deadline, "m{} does not listen", self.n);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// As by the kernel when memory runs out: the port refuses, and connections end.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// The kernel still accepts connections, and nobody answers.
    pub(crate) fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    pub(crate) fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// The cable is pulled: nothing goes in or out, and no carrier is lost at the other ends.
    pub(crate) fn vanish(&self) -> anyhow::Result<()> {
        self.switch.ip(&format!("link set m{} nomaster\n", self.n))
    }

    pub(crate) fn appear(&self) -> anyhow::Result<()> {
        self.switch
            .ip(&format!("link set m{} master br0\n", self.n))
    }

    /// What it answers with: `200`, `500`, or `slow` and milliseconds.
    pub(crate) fn behave(&self, behaviour: &str) -> anyhow::Result<()> {
        replace(&self.folder.join("behaviour"), behaviour)
    }

    /// Which certificate new connections get: `good`, `expired`, `stranger`.
    pub(crate) fn certificate(&self, name: &str) -> anyhow::Result<()> {
        replace(&self.folder.join("certificate"), name)
    }

    /// A planned restart.
    pub(crate) fn restart_with(&mut self, certificate: &str) -> anyhow::Result<()> {
        if self.child.is_some() {
            self.kill()?;
        }
        self.start()?;
        self.certificate(certificate)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("it does not run")?;
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        Ok(())
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Whole at once: it is being read.
pub(crate) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)?;
    Ok(())
}
