//! The time zone.

use std::fmt;

use anyhow::{Result, ensure};

use super::Step;
use crate::applied::Applied;
use crate::report::Reporter;
use crate::system::files::{Attributes, Root};

const ZONES: &str = "/usr/share/zoneinfo";
const LINK: &str = "/etc/localtime";
const NAME: &str = "/etc/timezone";
/// In the record.
const KEY: &str = "timezone";

/// Set once for an instance: a person may change it.
#[derive(Debug)]
pub struct Timezone {
    pub root: Root,
    pub zone: String,
    pub instance: String,
}

impl fmt::Display for Timezone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set the time zone: {}", self.zone)
    }
}

impl Step for Timezone {
    fn name(&self) -> &'static str {
        "timezone"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(Applied::open(&self.root, &self.instance)?.has(KEY, &self.parts()))
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        let zone = format!("{ZONES}/{}", self.zone);
        self.root.write_link(LINK, &zone)?;
        let line = format!("{}\n", self.zone);
        self.root
            .write(NAME, line.as_bytes(), Attributes::mode(0o644))?;
        let mut record = Applied::open(&self.root, &self.instance)?;
        record.set(KEY, self.parts());
        record.save()
    }
}

impl Timezone {
    /// Refuses a zone that the image does not have, before the first change.
    pub fn check(&self) -> Result<()> {
        // A directory of `--root` need not hold the zones.
        let known = self.root.is_machine() || self.root.exists(ZONES);
        ensure!(
            !known || self.root.exists(format!("{ZONES}/{}", self.zone)),
            "timezone: the image has no time zone `{}`; write a name such as `Europe/Berlin`",
            self.zone
        );
        Ok(())
    }

    fn parts(&self) -> Vec<String> {
        vec![self.zone.clone()]
    }
}
