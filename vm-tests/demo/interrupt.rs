//! Handles Ctrl-C at any moment, also while programs are built: no child process survives.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A terminal sends Ctrl-C to the children too. Those that have not ended after this time get
/// SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// From now on Ctrl-C, SIGTERM and SIGHUP end the child processes; a second signal kills them and
/// ends the demo.
pub(crate) fn watch() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            end_children(Signal::SIGKILL);
            std::process::exit(130);
        }
        thread::spawn(|| {
            thread::sleep(GRACE);
            end_children(Signal::SIGTERM);
        });
    })
    .context("handling Ctrl-C")
}

pub(crate) fn is_set() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails if a signal has arrived.
pub(crate) fn check() -> Result<()> {
    if is_set() {
        bail!("interrupted");
    }
    Ok(())
}

/// Signals the child processes. Each of them ends its own children.
fn end_children(signal: Signal) {
    for child in children(std::process::id()) {
        let _ = kill(Pid::from_raw(child), signal);
    }
}

fn children(parent: u32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let name = entry.file_name();
        if let Some(id) = name.to_str().and_then(|name| name.parse().ok())
            && parent_of(&stat) == Some(parent)
        {
            found.push(id);
        }
    }
    found
}

/// The fourth field (proc(5)). The second is the name in parentheses, which may contain anything.
fn parent_of(stat: &str) -> Option<u32> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn child_is_found_by_parent_id() -> Result<()> {
        assert_eq!(parent_of("7 (a) b) S 3 7 7"), Some(3));
        let mut child = Command::new("sleep").arg("60").spawn()?;
        let id = i32::try_from(child.id())?;
        assert!(children(std::process::id()).contains(&id));
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}
