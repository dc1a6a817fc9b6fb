//! Whether the running system uses a disk: mounts, swap, volumes and arrays.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::system::System;

/// Where the running system itself lives.
const SYSTEM: &[&str] = &[
    "/",
    "/usr",
    "/var",
    "/etc",
    "/boot",
    "/boot/efi",
    "/efi",
    "/nix",
];

impl System {
    /// An error if anything of the disk `name` is in use.
    pub fn check_unused(&self, name: &str) -> Result<()> {
        let uses = |device: &str| self.below(device).contains(name);
        let mounts = self.mounts()?;
        let mut points: Vec<_> = mounts.iter().filter(|(device, _)| uses(device)).collect();
        // The mount that says most comes first.
        points.sort_by_key(|(_, point)| (!SYSTEM.contains(&point.as_str()), point.clone()));
        if let Some((device, point)) = points.first() {
            if SYSTEM.contains(&point.as_str()) {
                bail!("`/dev/{name}` is the disk of this system: `{point}` is on `/dev/{device}`");
            }
            bail!("`/dev/{device}` is mounted at `{point}`; unmount it first");
        }
        if let Some(device) = self.swaps()?.iter().find(|device| uses(device)) {
            bail!("`/dev/{device}` is swap space of this system; run `swapoff` first");
        }
        let mut devices = self.partitions(name);
        devices.push(name.to_owned());
        for device in devices {
            if let Some(holder) = self.entries(&device, "holders").first() {
                let holder = self.title(holder);
                bail!(
                    "`/dev/{device}` is part of the volume or array {holder}; stop that first \
                     (`dmsetup remove`, `vgchange -an`, `mdadm --stop`)"
                );
            }
        }
        Ok(())
    }

    /// An error if a loop device makes a disk of the file at `path`.
    pub(super) fn check_not_attached(&self, path: &Path) -> Result<()> {
        let path =
            fs::canonicalize(path).with_context(|| format!("opening `{}`", path.display()))?;
        let devices = fs::read_dir(self.path("sys/class/block")).into_iter();
        for entry in devices.flatten().flatten() {
            let file = fs::read_to_string(entry.path().join("loop/backing_file"));
            if file.is_ok_and(|file| Path::new(file.trim_end_matches('\n')) == path) {
                bail!(
                    "`{}` is attached as `/dev/{}`; run `losetup --detach` first",
                    path.display(),
                    entry.file_name().display()
                );
            }
        }
        Ok(())
    }

    /// Device and mount point of every mounted block device.
    fn mounts(&self) -> Result<Vec<(String, String)>> {
        let path = self.path("proc/self/mountinfo");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading `{}`", path.display()))?;
        let device = |line: &str| {
            let (fields, source) = line.split_once(" - ")?;
            let mut fields = fields.split(' ').skip(2);
            let (number, point) = (fields.next()?, fields.nth(1)?);
            // btrfs has a number of its own, and names one of its devices.
            let source = source.split(' ').nth(1)?;
            let name = self.name_of_number(number).or_else(|| {
                let source = unescape(source);
                source
                    .starts_with("/dev/")
                    .then(|| self.name_of_path(&source))?
            })?;
            Some((name, unescape(point)))
        };
        Ok(text.lines().filter_map(device).collect())
    }

    /// Swap partitions. A swap file is on a mounted file system.
    fn swaps(&self) -> Result<Vec<String>> {
        let path = self.path("proc/swaps");
        // A kernel without swap has no such file.
        let text = fs::read_to_string(path).unwrap_or_default();
        let names = text.lines().skip(1).filter_map(|line| {
            let path = unescape(line.split_ascii_whitespace().next()?);
            path.starts_with("/dev/")
                .then(|| self.name_of_path(&path))?
        });
        Ok(names.collect())
    }
}

/// Undoes the kernel's octal escapes of blanks and backslashes.
fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (code, plain) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        out = out.replace(code, plain);
    }
    out
}
