//! What a site adds to the root: the services of its Debian packages, and kernel modules.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::archive::Archive;
use crate::plan::ImagePlan;

/// Links that Debian's packages make for their services. The image removes those of the base.
const UNITS: &str = "etc/systemd/system";
const MODULES: &str = "usr/lib/modules-load.d/site.conf";

/// What the packages of a site are, as Debian's part of the root still has dpkg's lists.
#[derive(Debug, Default)]
pub(super) struct Site {
    /// Name and installed size in bytes of each package.
    pub(super) sizes: Vec<(String, u64)>,
    /// Path and target of the links that start the services of the packages.
    links: Vec<(String, String)>,
}

impl Site {
    /// Reads the packages of `plan` in `root`.
    pub(super) fn read(root: &Archive, plan: &ImagePlan) -> Result<Self> {
        let mut site = Self::default();
        let mut units = BTreeSet::new();
        let firmware = plan.firmware_packages().map(str::to_owned);
        for name in firmware.chain(plan.packages.iter().cloned()) {
            // Microcode is in the initrd only.
            let Some(files) = files(root, &name)? else {
                ensure!(
                    name.ends_with("-microcode"),
                    "Debian's list of the files of `{name}` is missing; is it a virtual package?"
                );
                continue;
            };
            let mut size = 0;
            for path in &files {
                size += root.size(path);
                if path.contains("/systemd/system/") {
                    units.extend(path.rsplit('/').next().map(str::to_owned));
                }
            }
            site.sizes.push((name, size));
        }
        site.links = root
            .symlinks(UNITS)
            .into_iter()
            .filter(|(_, target)| units.contains(target.rsplit('/').next().unwrap_or_default()))
            .collect();
        Ok(site)
    }

    /// Adds the links again that the image removes with those of the base, and the modules.
    pub(super) fn add(&self, root: &mut Archive, plan: &ImagePlan) {
        for (path, target) in &self.links {
            root.symlink(path, target);
        }
        if !plan.modules.is_empty() {
            let text = plan.modules.join("\n") + "\n";
            root.file(MODULES, 0o644, text.into_bytes());
        }
    }
}

/// The files of a package, without the first slash; `None` if it is not installed.
fn files(root: &Archive, package: &str) -> Result<Option<Vec<String>>> {
    for name in [package.to_owned(), format!("{package}:amd64")] {
        let path = format!("var/lib/dpkg/info/{name}.list");
        if root.get(&path).is_some() {
            let bytes = root.read(&path)?;
            let text = String::from_utf8_lossy(&bytes);
            let files = text
                .lines()
                .map(|line| merged(line.trim_start_matches('/')));
            return Ok(Some(files.collect()));
        }
    }
    Ok(None)
}

/// Debian's packages may name `lib/…`, which is a link to `usr/lib/…`.
fn merged(path: &str) -> String {
    match path.starts_with("lib/") || path.starts_with("bin/") || path.starts_with("sbin/") {
        true => format!("usr/{path}"),
        false => path.to_owned(),
    }
}

/// Fails if the kernel in `folder`, `usr/lib/modules/RELEASE`, lacks a module of the topology.
pub(super) fn check_modules(folder: &Path, release: &str, wanted: &[String]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut known = BTreeSet::new();
    for file in ["modules.dep", "modules.builtin"] {
        let path = folder.join(file);
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading `{}`", path.display()))?;
        for line in text.lines() {
            let path = line.split(':').next().unwrap_or_default();
            let name = path.rsplit('/').next().unwrap_or_default();
            known.insert(name.split('.').next().unwrap_or_default().replace('-', "_"));
        }
    }
    let missing: Vec<_> = wanted
        .iter()
        .filter(|name| !known.contains(*name))
        .collect();
    ensure!(
        missing.is_empty(),
        "`image.modules`: the kernel {release} has no module `{}`; correct the name, or choose \
         `kernel: generic`, which has all drivers of Debian",
        missing
            .iter()
            .map(|name| name.as_str())
            .collect::<Vec<_>>()
            .join("`, `")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> ImagePlan {
        ImagePlan {
            firmware: vec!["bnx2".to_owned(), "intel-ucode".to_owned()],
            modules: vec!["nvme_tcp".to_owned()],
            packages: vec!["open-iscsi".to_owned()],
            ..ImagePlan::default()
        }
    }

    #[test]
    fn services_of_packages_stay_enabled_and_sizes_are_known() -> Result<()> {
        let mut root = Archive::default();
        let info = "var/lib/dpkg/info";
        root.file(
            &format!("{info}/firmware-bnx2.list"),
            0o644,
            &b"/lib/firmware/bnx2.fw\n"[..],
        );
        let list = b"/usr/lib/systemd/system/iscsid.service\n/usr/sbin/iscsid\n";
        root.file(&format!("{info}/open-iscsi:amd64.list"), 0o644, &list[..]);
        root.file("usr/lib/firmware/bnx2.fw", 0o644, &b"12345"[..]);
        root.file("usr/sbin/iscsid", 0o755, &b"123"[..]);
        root.file("usr/lib/systemd/system/iscsid.service", 0o644, &b"1"[..]);
        let link = format!("{UNITS}/sockets.target.wants/iscsid.service");
        root.symlink(&link, "/usr/lib/systemd/system/iscsid.service");
        let other = format!("{UNITS}/timers.target.wants/apt.timer");
        root.symlink(&other, "/usr/lib/systemd/system/apt.timer");

        let site = Site::read(&root, &plan())?;
        let sizes = [
            ("firmware-bnx2".to_owned(), 5),
            ("open-iscsi".to_owned(), 4),
        ];
        assert_eq!(site.sizes, sizes);
        root.remove(UNITS);
        site.add(&mut root, &plan());
        assert!(root.get(&link).is_some() && root.get(&other).is_none());
        assert_eq!(root.read(MODULES)?, b"nvme_tcp\n");
        Ok(())
    }

    #[test]
    fn module_that_the_kernel_lacks_is_named() -> Result<()> {
        let dir = tempfile::tempdir()?;
        fs::write(
            dir.path().join("modules.dep"),
            "kernel/a/nvme-tcp.ko.xz: kernel/a/b.ko.xz\n",
        )?;
        fs::write(
            dir.path().join("modules.builtin"),
            "kernel/fs/ext4/ext4.ko\n",
        )?;
        let check = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            check_modules(dir.path(), "6.12", &names)
        };
        check(&["nvme_tcp", "ext4"])?;
        let error = check(&["nvme_tcp", "hfs"]).unwrap_err().to_string();
        assert!(
            error.contains("the kernel 6.12 has no module `hfs`"),
            "{error}"
        );
        Ok(())
    }
}
