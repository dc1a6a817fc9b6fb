//! The hostname, static and transient.

use std::fmt;

use anyhow::{Context, Result};

use super::Step;
use crate::report::Reporter;
use crate::system::files::{Attributes, Root};

/// Before networkd requests a lease, so that it sends this name; networkd is configured not to
/// accept another.
#[derive(Debug)]
pub struct Hostname {
    pub root: Root,
    pub name: String,
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set hostname: {}", self.name)
    }
}

impl Step for Hostname {
    fn name(&self) -> &'static str {
        "hostname"
    }

    fn is_done(&self) -> Result<bool> {
        let running = nix::unistd::gethostname().context("reading the hostname")?;
        let runs = !self.root.is_machine() || running.to_string_lossy() == self.name;
        Ok(runs
            && self.root.holds(
                "/etc/hostname",
                self.line().as_bytes(),
                Attributes::mode(0o644),
            )?)
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        self.root.write(
            "/etc/hostname",
            self.line().as_bytes(),
            Attributes::mode(0o644),
        )?;
        if self.root.is_machine() {
            nix::unistd::sethostname(&self.name)
                .with_context(|| format!("setting the hostname `{}`", self.name))?;
        }
        Ok(())
    }
}

impl Hostname {
    fn line(&self) -> String {
        format!("{}\n", self.name)
    }
}
