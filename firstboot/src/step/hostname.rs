//! The hostname, static and transient.

use std::fmt;

use anyhow::{Context, Result};

use super::Step;
use crate::applied::Applied;
use crate::report::Reporter;
use crate::system::files::{Attributes, Root};

pub const PATH: &str = "/etc/hostname";
/// In the record.
const KEY: &str = "hostname";

/// Before networkd requests a lease, so that it sends this name; networkd is configured not to
/// accept another.
#[derive(Debug)]
pub struct Hostname {
    pub root: Root,
    pub name: String,
    pub create_file: bool,
    /// The instance for which the name is set once: a person may change it.
    pub once: Option<String>,
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
        if let Some(instance) = &self.once {
            return Ok(Applied::open(&self.root, instance)?.has(KEY, &self.parts()));
        }
        let running = nix::unistd::gethostname().context("reading the hostname")?;
        let runs = !self.root.is_machine() || running.to_string_lossy() == self.name;
        let holds = |mode| self.root.holds(PATH, self.line().as_bytes(), mode);
        Ok(runs && (!self.writes() || holds(Attributes::mode(0o644))?))
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        if self.writes() {
            self.root
                .write(PATH, self.line().as_bytes(), Attributes::mode(0o644))?;
        }
        if self.root.is_machine() {
            nix::unistd::sethostname(&self.name)
                .with_context(|| format!("setting the hostname `{}`", self.name))?;
        }
        if let Some(instance) = &self.once {
            let mut record = Applied::open(&self.root, instance)?;
            record.set(KEY, self.parts());
            record.save_or_tell(report);
        }
        Ok(())
    }
}

impl Hostname {
    fn writes(&self) -> bool {
        self.create_file || self.root.exists(PATH)
    }

    fn parts(&self) -> Vec<String> {
        vec![self.name.clone()]
    }

    fn line(&self) -> String {
        format!("{}\n", self.name)
    }
}
