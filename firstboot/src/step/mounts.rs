//! File systems of the document: lines in `/etc/fstab`, which systemd mounts at every boot.

use std::{fmt, fs};

use anyhow::{Context, Result};

use super::Step;
use super::files;
use crate::applied::{Applied, digest};
use crate::report::Reporter;
use crate::system::files::{Attributes, Root};
use crate::system::{command, systemd};
use userdata::cloud_config::Mount;

const PATH: &str = "/etc/fstab";
/// The option that marks our lines, as `comment=cloudconfig` marks those of cloud-init.
const MARK: &str = "x-firstlight";
/// In the record.
const KEY: &str = "mounts";

/// Written once for an instance: a person may change the lines.
#[derive(Debug)]
pub struct Mounts {
    pub root: Root,
    pub mounts: Vec<Mount>,
    pub instance: String,
}

impl fmt::Display for Mounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folders: Vec<_> = self.mounts.iter().map(|mount| mount.dir.as_str()).collect();
        write!(f, "mount {}", folders.join(", "))
    }
}

impl Step for Mounts {
    fn name(&self) -> &'static str {
        "mounts"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(Applied::open(&self.root, &self.instance)?.has(KEY, &self.parts()))
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let current = self.root.read(PATH)?.unwrap_or_default();
        let text = self.table(&String::from_utf8_lossy(&current));
        for mount in &self.mounts {
            let folder = self.root.join(&mount.dir);
            fs::create_dir_all(&folder)
                .with_context(|| format!("creating `{}`", folder.display()))?;
        }
        self.root
            .write(PATH, text.as_bytes(), Attributes::mode(0o644))?;
        if self.root.is_machine() {
            // systemd makes its units from the table; `mount` tells what does not work now.
            systemd::reload_units()?;
            if let Err(error) = command::run("mount", &["--all"]) {
                report.degraded(&format!("mounts: {error:#}"));
            }
        }
        let mut record = Applied::open(&self.root, &self.instance)?;
        record.set(KEY, self.parts());
        record.save()
    }
}

impl Mounts {
    /// Takes out what cannot be mounted, because its folder is on the image, and says why.
    pub fn take_impossible(root: &Root, mounts: &mut Vec<Mount>) -> Vec<String> {
        let possible = |mount: &Mount| {
            root.join(&mount.dir).is_dir() || !files::is_of_image(root, &format!("{}/", mount.dir))
        };
        let (stay, gone) = std::mem::take(mounts).into_iter().partition(possible);
        *mounts = stay;
        let gone: Vec<Mount> = gone;
        let why = |mount: Mount| {
            format!(
                "mounts: `{}` is not mounted: the folder would be on the read-only image; mount \
                 below /var, /mnt, /home, /root or /etc",
                mount.dir
            )
        };
        gone.into_iter().map(why).collect()
    }

    /// The table with our lines in place of earlier ones.
    fn table(&self, current: &str) -> String {
        let ours = |line: &&str| {
            let options = line.split_whitespace().nth(3).unwrap_or_default();
            !line.trim_start().starts_with('#') && options.split(',').any(|one| one == MARK)
        };
        let mut text = String::new();
        for line in current.lines().filter(|line| !ours(line)) {
            text.push_str(line);
            text.push('\n');
        }
        for mount in &self.mounts {
            let Mount {
                device,
                dir,
                kind,
                options,
                freq,
                pass,
            } = mount;
            text.push_str(&format!(
                "{device}\t{dir}\t{kind}\t{options},{MARK}\t{freq}\t{pass}\n"
            ));
        }
        text
    }

    fn parts(&self) -> Vec<String> {
        let text = self.table("");
        vec![digest([text.as_bytes()])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(device: &str, dir: &str) -> Mount {
        Mount {
            device: device.to_owned(),
            dir: dir.to_owned(),
            kind: "auto".to_owned(),
            options: "defaults,nofail".to_owned(),
            freq: "0".to_owned(),
            pass: "2".to_owned(),
        }
    }

    #[test]
    fn lines_of_others_stay_and_ours_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let own = "# comment, x-firstlight\nUUID=1 /own ext4 defaults 0 2\n";
        root.write(PATH, own.as_bytes(), Attributes::mode(0o644))
            .unwrap();
        let apply = |mounts: Vec<Mount>| {
            let step = Mounts {
                root: root.clone(),
                mounts,
                instance: "i".to_owned(),
            };
            assert!(!step.is_done().unwrap());
            step.apply(&mut Reporter::silent(&root)).unwrap();
            assert!(step.is_done().unwrap());
            String::from_utf8(root.read(PATH).unwrap().unwrap()).unwrap()
        };
        let line = "/dev/vdb\t/var/data\tauto\tdefaults,nofail,x-firstlight\t0\t2\n";
        let first = vec![mount("/dev/vdb", "/var/data"), mount("/dev/vdc", "/var/b")];
        assert!(apply(first).starts_with(&format!("{own}{line}")));
        assert!(root.join("/var/data").is_dir());
        assert_eq!(
            apply(vec![mount("/dev/vdb", "/var/data")]),
            format!("{own}{line}")
        );
    }
}
