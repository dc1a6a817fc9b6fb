//! Starts a unit and waits for its start job.

use std::fmt;

use anyhow::Result;

use super::Step;
use crate::report::Reporter;
use crate::system::systemd;

#[derive(Debug)]
pub struct Unit {
    pub name: &'static str,
    pub unit: &'static str,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "start {}", self.unit)
    }
}

impl Step for Unit {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_done(&self) -> Result<bool> {
        systemd::is_active(self.unit)
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        systemd::start(self.unit)
    }

    fn is_lasting(&self) -> bool {
        false
    }

    fn needs_machine(&self) -> bool {
        true
    }
}
