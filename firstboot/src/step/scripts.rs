//! `bootcmd` and `runcmd`: the commands of the document, as one shell script each.
//!
//! As with cloud-init, variables and the directory last from one command to the next, a command
//! that fails does not stop those after it unless the script says `set -e`, and the exit status is
//! that of the last one.

use std::fmt;

use anyhow::Result;

use userdata::cloud_config::Command;

use super::Step;
use crate::applied::digest;
use crate::report::Reporter;
use crate::system::command;
use crate::system::files::{Attributes, Root};

const SCRIPTS: &str = "/var/lib/firstlight/scripts";

/// Commands that run as one script. A script that fails is reported, and the boot continues.
pub struct Scripts {
    pub root: Root,
    pub name: &'static str,
    pub commands: Vec<Command>,
    /// Run once for these commands and this instance, or at every boot.
    pub once: bool,
    pub instance: String,
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

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let path = format!("{SCRIPTS}/{}", self.name);
        let script = script(&self.commands);
        self.root
            .write(&path, script.as_bytes(), Attributes::mode(0o700))?;
        if self.once {
            // Before the first command: a disk that the commands fill has room for it.
            let mark = Attributes::mode(0o600);
            self.root
                .write(self.next_mark(), self.digest().as_bytes(), mark)?;
        }
        let variables = [("INSTANCE_ID", self.instance.as_str())];
        let path = self.root.join(path);
        if let Err(error) = command::run_script(self.name, &path, &variables) {
            // cloud-init does not repeat it either: what the commands did is done.
            report.degraded(&format!("{error:#}"));
        }
        if self.once {
            // Image and document no longer describe the machine completely.
            self.root.rename(self.next_mark(), self.mark())?;
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

    /// The mark while the commands run.
    fn next_mark(&self) -> String {
        format!("/var/lib/firstlight/next-customised-{}", self.name)
    }

    fn digest(&self) -> String {
        digest([script(&self.commands).as_bytes(), self.instance.as_bytes()])
    }
}

/// cloud-init's `shellify`: a text is a line as it is, the words of a list are quoted.
pub(super) fn script(commands: &[Command]) -> String {
    let mut script = "#!/bin/sh\n".to_owned();
    for command in commands {
        match command {
            Command::Shell(line) => script.push_str(line),
            Command::Argv(words) => {
                let quoted: Vec<_> = words
                    .iter()
                    .map(|word| format!("'{}'", word.replace('\'', "'\\''")))
                    .collect();
                script.push_str(&quoted.join(" "));
            }
        }
        script.push('\n');
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: impl Into<String>) -> Command {
        Command::Shell(line.into())
    }

    fn words(words: &[&str]) -> Command {
        Command::Argv(words.iter().map(|word| (*word).to_owned()).collect())
    }

    /// Runs the commands with `OUT` as the name of a new file, and returns its text and what the
    /// step reported.
    fn run(commands: impl Fn(&str) -> Vec<Command>) -> String {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let out = dir.path().join("out").display().to_string();
        let step = Scripts {
            root: root.clone(),
            name: "runcmd",
            commands: commands(&out),
            once: true,
            instance: "i-1".to_owned(),
        };
        assert!(!step.is_done().unwrap());
        step.apply(&mut Reporter::silent(&root)).unwrap();
        assert!(step.is_done().unwrap());
        String::from_utf8(root.read("/out").unwrap().unwrap_or_default()).unwrap()
    }

    #[test]
    fn commands_share_one_shell() {
        let text = run(|out| {
            vec![
                shell("export CLUSTER=prod"),
                shell("cd /var/tmp"),
                shell(format!("echo \"$CLUSTER $PWD $INSTANCE_ID\" > {out}")),
                words(&["cd", "/usr"]),
                shell(format!("pwd >> {out}")),
                shell("test -f /not/there"),
                shell(format!("echo reached >> {out}")),
            ]
        });
        assert_eq!(text, "prod /var/tmp i-1\n/usr\nreached\n");
    }

    #[test]
    fn script_starts_in_the_root_directory() {
        assert_eq!(run(|out| vec![shell(format!("pwd > {out}"))]), "/\n");
    }

    #[test]
    fn set_e_stops_the_script() {
        let text = run(|out| {
            vec![
                shell("set -e"),
                shell("false"),
                shell(format!("echo reached > {out}")),
            ]
        });
        assert_eq!(text, "");
    }

    #[test]
    fn functions_and_here_documents_span_items() {
        let text = run(|out| {
            vec![
                shell("say() {\n  echo \"said $1\"\n}"),
                shell(format!("cat > {out} <<END")),
                shell("line"),
                shell("END"),
                shell(format!("say it >> {out}")),
            ]
        });
        assert_eq!(text, "line\nsaid it\n");
    }

    #[test]
    fn words_of_a_list_are_quoted() {
        let text = run(|out| {
            vec![words(&[
                "sh",
                "-c",
                &format!("printf '%s\\n' \"$@\" > {out}"),
                "x",
                "it's",
                "$HOME",
                "a  b",
            ])]
        });
        assert_eq!(text, "it's\n$HOME\na  b\n");
    }
}
