//! The screen and the serial lines: every console that the kernel writes to, because a person may
//! look at any of them.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use crate::system::files::Root;

/// Names of consoles, separated by spaces: `tty0 ttyS0`.
const ACTIVE: &str = "/sys/class/tty/console/active";

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
