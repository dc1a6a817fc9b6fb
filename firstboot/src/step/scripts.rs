//! `bootcmd` and `runcmd`: what the document wants run that no other step does.

use std::fmt;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use userdata::cloudconfig::Command;

use super::Step;
use crate::report::Reporter;
use crate::system::command;
use crate::system::files::{Attributes, Root};

/// Commands, each an argument list; the first that fails ends the step.
pub struct Scripts {
    pub root: Root,
    pub name: &'static str,
    pub commands: Vec<Command>,
    /// Once for these commands, or at every boot.
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
            let run = match words {
                Command::Shell(line) => command::run("/bin/sh", &["-c", line]),
                Command::Argv(words) => match words.split_first() {
                    Some((program, arguments)) => command::run(program, arguments),
                    None => continue,
                },
            };
            run.with_context(|| format!("running `{}[{number}]`", self.name))?;
        }
        if self.once {
            // The machine is no longer only what its image and document say.
            self.root.write(
                self.mark(),
                self.digest().as_bytes(),
                Attributes::mode(0o600),
            )?;
        }
        Ok(())
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
