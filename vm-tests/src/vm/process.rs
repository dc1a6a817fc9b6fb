//! The QEMU process while it starts.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::tools::tail;

/// The last lines of QEMU's standard error.
pub(super) fn stderr_tail(folder: &Path) -> String {
    tail(
        fs::read_to_string(folder.join("qemu.stderr"))
            .unwrap_or_default()
            .trim_end(),
        5,
    )
}

/// QEMU while it starts: killed on any error before the machine exists.
pub(super) struct StartingQemu(pub(super) Option<Child>);

impl StartingQemu {
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
                bail!("QEMU did not connect within a minute");
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
