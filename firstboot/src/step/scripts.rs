//! `bootcmd` and `runcmd`: the commands of the document.

use std::fmt;

use anyhow::Result;
use sha2::{Digest, Sha256};

use userdata::cloud_config::Command;

use super::Step;
use crate::report::Reporter;
use crate::system::command;
use crate::system::files::{Attributes, Root};

/// Commands; the first that fails ends the step.
pub struct Scripts {
    pub root: Root,
    pub name: &'static str,
    pub commands: Vec<Command>,
    /// Run once for these commands, or at every boot.
    pub once: bool,
}

/// Commands may hold secrets: only their number is shown.
impl fmt::Debug for Scripts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scripts({}, {})", self.name, self.commands.len())
    }
}

impl fmt::Display for Scripts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "run the document's {} commands of {}",
            self.commands.len(),
            self.name
        )
    }
}

impl Step for Scripts {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_done(&self) -> Result<bool> {
        Ok(self.once && self.root.read(self.mark())?.as_deref() == Some(self.digest().as_bytes()))
    }

    fn apply(&self, _: &mut Reporter) -> Result<()> {
        for (number, words) in self.commands.iter().enumerate() {
            let shown = format!("{}[{number}]", self.name);
            match words {
                Command::Shell(line) => command::run_shown_as(&shown, "/bin/sh", &["-c", line])?,
                Command::Argv(words) => {
                    let Some((program, arguments)) = words.split_first() else {
                        continue;
                    };
                    command::run_shown_as(&shown, program, arguments)?;
                }
            }
        }
        if self.once {
            // Image and document no longer describe the machine completely.
            self.root.write(
                self.mark(),
                self.digest().as_bytes(),
                Attributes::mode(0o600),
            )?;
        }
        Ok(())
    }

    fn is_lasting(&self) -> bool {
        self.once
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

impl Scripts {
    fn mark(&self) -> String {
        format!("/var/lib/firstlight/customised-{}", self.name)
    }

    fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        let words = self.commands.iter().flat_map(|command| match command {
            Command::Shell(line) => vec![line],
            Command::Argv(words) => words.iter().collect(),
        });
        for word in words {
            hasher.update(word);
            hasher.update([0]);
        }
        hasher
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}
