//! One fake apiserver, as a process in a namespace of its own, and its faults.

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

    /// Starts the process and waits until it listens.
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

    /// Kills the process, as the OOM killer does: the port is closed and connections end.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the process does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Stops the process: the kernel accepts connections and no request is answered.
    pub(crate) fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    pub(crate) fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Disconnects the host from the bridge. The other ends see no loss of carrier.
    pub(crate) fn vanish(&self) -> anyhow::Result<()> {
        self.switch.ip(&format!("link set m{} nomaster\n", self.n))
    }

    pub(crate) fn appear(&self) -> anyhow::Result<()> {
        self.switch
            .ip(&format!("link set m{} master br0\n", self.n))
    }

    /// Sets the answer: `200`, `500`, or `slow` and milliseconds.
    pub(crate) fn behave(&self, behaviour: &str) -> anyhow::Result<()> {
        replace(&self.folder.join("behaviour"), behaviour)
    }

    /// Sets the certificate of new connections: `good`, `expired` or `foreign`.
    pub(crate) fn certificate(&self, name: &str) -> anyhow::Result<()> {
        replace(&self.folder.join("certificate"), name)
    }

    /// Restarts the process with another certificate.
    pub(crate) fn restart_with(&mut self, certificate: &str) -> anyhow::Result<()> {
        if self.child.is_some() {
            self.kill()?;
        }
        self.start()?;
        self.certificate(certificate)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("the process does not run")?;
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        Ok(())
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Replaces a file atomically, because other processes read it.
pub(crate) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)?;
    Ok(())
}
