//! The scripts of the document, and those in cloud-init's folders, where clients put them: per once
//! (never again), per boot, per instance.

use std::fmt;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};

use super::Step;
use crate::applied::{Applied, digest};
use crate::report::Reporter;
use crate::system::command;
use crate::system::files::{Attributes, Root};

const FOLDER: &str = "/var/lib/cloud/scripts";
/// The names of scripts that run once per machine; in the record they would be bound to an instance.
const ONCE: &str = "/var/lib/firstlight/scripts-once";
/// Where the document's own scripts are written.
const OWN: &str = "/var/lib/firstlight/scripts";

/// A script that fails is reported, and the boot continues.
pub struct BootScripts {
    pub root: Root,
    /// User-data that is a script, or parts of it.
    pub scripts: Vec<String>,
    pub instance: String,
}

/// Scripts may hold secrets.
impl fmt::Debug for BootScripts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootScripts({})", self.scripts.len())
    }
}

impl fmt::Display for BootScripts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scripts.len() {
            0 => write!(f, "run the scripts in {FOLDER}"),
            count => write!(
                f,
                "run {count} scripts of the document and those in {FOLDER}"
            ),
        }
    }
}

/// A script to run, and how the record knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Script {
    path: String,
    kind: Kind,
    digest: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Once,
    Boot,
    Instance,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Kind::Once => "per-once",
            Kind::Boot => "per-boot",
            Kind::Instance => "per-instance",
        }
    }
}

impl Step for BootScripts {
    fn name(&self) -> &'static str {
        "scripts"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(self.due()?.is_empty() && self.own_due()?.is_empty())
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        for script in self.due()? {
            self.run(&script.path, &script.path, report);
            self.remember(&script)?;
        }
        for (number, text) in self.own_due()? {
            let path = format!("{OWN}/part-{number:03}");
            let mode = Attributes::mode(0o700);
            self.root.write(&path, text.as_bytes(), mode)?;
            self.run(&format!("script {number} of the document"), &path, report);
            let mut record = self.record()?;
            record.set(&own_key(number), vec![digest([text.as_bytes()])]);
            record.save()?;
        }
        Ok(())
    }

    fn is_lasting(&self) -> bool {
        false
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

impl BootScripts {
    /// Whether the document or its files bring any script, now or in an earlier boot.
    pub fn is_needed(&self, files: &[userdata::cloud_config::File]) -> bool {
        let brings = |file: &userdata::cloud_config::File| file.path.starts_with(FOLDER);
        !self.scripts.is_empty() || files.iter().any(brings) || self.root.exists(FOLDER)
    }

    fn record(&self) -> Result<Applied> {
        Applied::open(&self.root, &self.instance)
    }

    /// The scripts of the folders that run in this boot, in cloud-init's order.
    fn due(&self) -> Result<Vec<Script>> {
        let record = self.record()?;
        let once = self.root.read(ONCE)?.unwrap_or_default();
        let once = String::from_utf8_lossy(&once).into_owned();
        let mut due = Vec::new();
        for kind in [Kind::Once, Kind::Boot, Kind::Instance] {
            let folder = format!("{FOLDER}/{}", kind.folder());
            for name in self.root.list(&folder)? {
                let path = format!("{folder}/{name}");
                let full = self.root.join(&path);
                let Ok(meta) = full.metadata() else {
                    continue;
                };
                if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
                    continue;
                }
                let bytes = self.root.read(&path)?.unwrap_or_default();
                let script = Script {
                    digest: digest([bytes.as_slice()]),
                    path,
                    kind,
                };
                let ran = match kind {
                    Kind::Boot => false,
                    Kind::Once => once.lines().any(|line| line == script.path),
                    Kind::Instance => record.has(
                        &format!("script:{}", script.path),
                        std::slice::from_ref(&script.digest),
                    ),
                };
                if !ran {
                    due.push(script);
                }
            }
        }
        Ok(due)
    }

    fn own_due(&self) -> Result<Vec<(usize, &str)>> {
        let record = self.record()?;
        let scripts = (1..).zip(self.scripts.iter().map(String::as_str));
        Ok(scripts
            .filter(|(number, text)| !record.has(&own_key(*number), &[digest([text.as_bytes()])]))
            .collect())
    }

    fn remember(&self, script: &Script) -> Result<()> {
        match script.kind {
            Kind::Boot => Ok(()),
            Kind::Instance => {
                let mut record = self.record()?;
                let key = format!("script:{}", script.path);
                record.set(&key, vec![script.digest.clone()]);
                record.save()
            }
            Kind::Once => {
                let mut names = self.root.read(ONCE)?.unwrap_or_default();
                names.extend(format!("{}\n", script.path).into_bytes());
                let mode = Attributes::mode(0o600);
                self.root.write(ONCE, &names, mode).map(drop)
            }
        }
    }

    /// Runs an executable file, whose first line names its interpreter.
    fn run(&self, shown: &str, path: &str, report: &mut Reporter) {
        let full = self.root.join(path);
        let variables = [("INSTANCE_ID", self.instance.as_str())];
        let result =
            command::run_file(shown, &full, &variables).with_context(|| format!("running {shown}"));
        if let Err(error) = result {
            report.degraded(&format!("{error:#}"));
        }
    }
}

fn own_key(number: usize) -> String {
    format!("script:part-{number:03}")
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "a test arranges files as it likes"
)]
mod tests {
    use super::*;

    fn lines(root: &Root) -> Vec<String> {
        let text = root.read("/out").unwrap().unwrap_or_default();
        let text = String::from_utf8(text).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn each_kind_of_script_runs_as_often_as_its_name_says() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let out = dir.path().join("out").display().to_string();
        let put = |path: &str, mode: u32, text: &str| {
            let script = format!("#!/bin/sh\necho {text} >> {out}\n");
            root.write(path, script.as_bytes(), Attributes::mode(mode))
                .unwrap();
        };
        put(&format!("{FOLDER}/per-boot/20-b"), 0o755, "boot2");
        put(&format!("{FOLDER}/per-boot/10-a"), 0o755, "boot1");
        put(&format!("{FOLDER}/per-boot/README"), 0o644, "never");
        put(&format!("{FOLDER}/per-once/x"), 0o700, "once");
        put(&format!("{FOLDER}/per-instance/x"), 0o700, "instance");
        let step = |instance: &str| BootScripts {
            root: root.clone(),
            scripts: vec![format!("#!/bin/sh\necho own $INSTANCE_ID >> {out}\n")],
            instance: instance.to_owned(),
        };
        let run = |instance: &str| {
            let step = step(instance);
            assert!(!step.is_done().unwrap());
            step.apply(&mut Reporter::silent(&root)).unwrap();
            let all = lines(&root);
            root.remove("/out").unwrap();
            all
        };
        assert_eq!(
            run("i-1"),
            ["once", "boot1", "boot2", "instance", "own i-1"]
        );
        assert_eq!(run("i-1"), ["boot1", "boot2"]);
        assert_eq!(run("i-2"), ["boot1", "boot2", "instance", "own i-2"]);
    }

    #[test]
    fn script_that_fails_is_reported_and_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let step = BootScripts {
            root: root.clone(),
            scripts: vec!["#!/bin/sh\nexit 7\n".to_owned(), "#!/bin/sh\n".to_owned()],
            instance: "i".to_owned(),
        };
        step.apply(&mut Reporter::silent(&root)).unwrap();
        assert!(step.is_done().unwrap());
    }
}
