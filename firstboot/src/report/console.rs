//! The screen and the serial lines: every console that the kernel writes to, because a person may
//! look at any of them.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use super::Reporter;
use crate::host_keys;
use crate::screen::Screen;
use crate::system::files::Root;

/// Names of consoles, separated by spaces: `tty0 ttyS0`.
const ACTIVE: &str = "/sys/class/tty/console/active";

impl Reporter {
    /// Shows a line that only those at the machine may read.
    pub(crate) fn console_only(&self, line: &str) {
        self.console(line);
    }

    pub(super) fn console(&self, line: &str) {
        write(&self.root, &format!("firstboot: {line}"));
    }

    pub(super) fn show(&self, screen: &Screen) {
        for line in screen.lines() {
            write(&self.root, &line);
        }
    }

    /// By them a person recognises the machine at the first login. Only an SSH server has them.
    pub(super) fn host_keys(&mut self) {
        if !self.root.is_machine() {
            return;
        }
        match host_keys::fingerprints(&self.root) {
            Ok(prints) => self.status.ssh_host_keys = prints,
            Err(error) => log::warn!("reading the SSH host keys: {error:#}"),
        }
        for print in self.status.ssh_host_keys.clone() {
            log::info!("SSH host key: {print}");
            self.console(&format!("SSH host key: {print}"));
        }
    }
}

/// Writes a line to every console; a machine without one is no error.
pub(crate) fn write(root: &Root, line: &str) {
    if !root.is_machine() {
        return;
    }
    for name in names(root) {
        // Non-blocking: flow control of a serial line must not block the boot.
        let flags = nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK;
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(format!("/dev/{name}"));
        if let Ok(mut console) = opened {
            let _ = console.write_all(format!("{line}\r\n").as_bytes());
        }
    }
}

fn names(root: &Root) -> Vec<String> {
    let active = root.read(ACTIVE).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&active);
    let names: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    if names.is_empty() {
        vec!["console".to_owned()]
    } else {
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_console_of_the_kernel_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(names(&root), ["console"]);
        root.write_volatile(ACTIVE, b"tty0 ttyS0\n").unwrap();
        assert_eq!(names(&root), ["tty0", "ttyS0"]);
    }
}
