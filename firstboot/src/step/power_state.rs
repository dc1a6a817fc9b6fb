//! `power_state`: the host goes down once it is configured.

use std::fmt;

use anyhow::Result;

use super::Step;
use super::scripts::script;
use crate::applied::{Applied, digest};
use crate::report::Reporter;
use crate::system::command;
use crate::system::files::{Attributes, Root};
use userdata::cloud_config::PowerState as Wanted;

const CONDITION: &str = "/var/lib/firstlight/scripts/power-state";
/// In the record.
const KEY: &str = "power-state";

/// Once for an instance: a host that restarts at every boot would never be of use.
#[derive(Debug)]
pub struct PowerState {
    pub root: Root,
    pub wanted: Wanted,
    pub instance: String,
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.wanted.delay {
            0 => write!(f, "{} this host", self.wanted.mode),
            minutes => write!(f, "{} this host in {minutes} min", self.wanted.mode),
        }
    }
}

impl Step for PowerState {
    fn name(&self) -> &'static str {
        "power-state"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(Applied::open(&self.root, &self.instance)?.has(KEY, &self.parts()))
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        // First: what follows may end this program.
        let mut record = Applied::open(&self.root, &self.instance)?;
        record.set(KEY, self.parts());
        record.save()?;
        if let Some(condition) = &self.wanted.condition {
            let text = script(std::slice::from_ref(condition));
            let mode = Attributes::mode(0o700);
            self.root.write(CONDITION, text.as_bytes(), mode)?;
            let path = self.root.join(CONDITION);
            if let Err(error) = command::run_script("power_state.condition", &path, &[]) {
                log::info!("power_state: the condition does not hold: {error:#}");
                return Ok(());
            }
        }
        if let Err(error) = command::run("shutdown", &self.arguments()) {
            report.degraded(&format!("power_state: {error:#}"));
        }
        Ok(())
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

impl PowerState {
    fn arguments(&self) -> Vec<String> {
        let mode = match self.wanted.mode.as_str() {
            "halt" => "--halt",
            "poweroff" => "--poweroff",
            _ => "--reboot",
        };
        let delay = match self.wanted.delay {
            0 => "now".to_owned(),
            minutes => format!("+{minutes}"),
        };
        let mut arguments = vec![mode.to_owned(), delay];
        arguments.extend(self.wanted.message.clone());
        arguments
    }

    fn parts(&self) -> Vec<String> {
        let condition = self.wanted.condition.as_slice();
        let arguments = self.arguments();
        let words = arguments.iter().map(String::as_bytes);
        vec![digest(words.chain([script(condition).as_bytes()]))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use userdata::cloud_config::Command;

    fn step(root: &Root, mode: &str, delay: u32) -> PowerState {
        PowerState {
            root: root.clone(),
            wanted: Wanted {
                mode: mode.to_owned(),
                delay,
                message: Some("bye".to_owned()),
                condition: None,
            },
            instance: "i".to_owned(),
        }
    }

    #[test]
    fn arguments_are_those_of_shutdown() {
        let root = Root::new("/nowhere");
        assert_eq!(step(&root, "halt", 0).arguments(), ["--halt", "now", "bye"]);
        assert_eq!(
            step(&root, "reboot", 5).arguments(),
            ["--reboot", "+5", "bye"]
        );
    }

    #[test]
    fn condition_that_fails_keeps_the_host_up_and_is_asked_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mut step = step(&root, "poweroff", 0);
        let asked = dir.path().join("asked").display().to_string();
        let line = format!("echo asked >> {asked}; exit 1");
        step.wanted.condition = Some(Command::Shell(line));
        assert!(!step.is_done().unwrap());
        step.apply(&mut Reporter::silent(&root)).unwrap();
        assert!(step.is_done().unwrap());
        assert_eq!(root.read("/asked").unwrap().unwrap(), b"asked\n");
    }
}
