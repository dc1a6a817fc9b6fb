//! Time servers, for systemd-timesyncd.

use std::fmt;

use anyhow::Result;

use super::Step;
use crate::report::Reporter;
use crate::system::files::{Attributes, Root};
use crate::system::systemd;

const PATH: &str = "/etc/systemd/timesyncd.conf.d/10-firstlight.conf";
const UNIT: &str = "systemd-timesyncd.service";

#[derive(Debug)]
pub struct Ntp {
    pub root: Root,
    pub servers: Vec<String>,
}

impl fmt::Display for Ntp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set NTP servers: {}", self.servers.join(", "))
    }
}

impl Step for Ntp {
    fn name(&self) -> &'static str {
        "ntp"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(self
            .root
            .holds(PATH, self.text().as_bytes(), Attributes::mode(0o644))?
            && (!self.root.is_machine() || systemd::is_active(UNIT)?))
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        self.root
            .write(PATH, self.text().as_bytes(), Attributes::mode(0o644))?;
        // It reads its servers only when it starts. The host can go on with the clock that it has.
        if self.root.is_machine()
            && let Err(error) = systemd::restart(UNIT)
        {
            report.degraded(&format!("setting the clock from NTP servers: {error:#}"));
        }
        Ok(())
    }
}

impl Ntp {
    fn text(&self) -> String {
        // No fallback: an air-gapped machine must not try servers on the Internet.
        format!("[Time]\nNTP={}\nFallbackNTP=\n", self.servers.join(" "))
    }
}
