//! The QEMU process while it starts.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::host::process::tail;

/// The last lines of QEMU's stderr.
pub(super) fn stderr_tail(folder: &Path) -> String {
    tail(
        fs::read_to_string(folder.join("qemu.stderr"))
            .unwrap_or_default()
            .trim_end(),
        5,
    )
}

/// A QEMU process that is killed when an error occurs before the machine exists.
pub(super) struct StartingQemu(pub(super) Option<Child>);

impl StartingQemu {
    /// Waits for a connection of QEMU. Fails as soon as QEMU ends.
    pub(super) fn accept(&mut self, listener: &UnixListener, folder: &Path) -> Result<UnixStream> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let mut wait = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            if poll(&mut wait, PollTimeout::from(100u8))? > 0 {
                return Ok(listener.accept()?.0);
            }
            if let Some(status) = self.0.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("QEMU: {status}: {}", stderr_tail(folder));
            }
            if Instant::now() > end {
                bail!("QEMU does not connect within a minute");
            }
        }
    }
}

impl Drop for StartingQemu {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
