//! The unified kernel image: one EFI program with kernel, initrd, and a command line that has the
//! root hash.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use build_tools::debian_tree::Tree;
use build_tools::process;

/// The command line of every image, after `roothash=`.
const CMDLINE: &[&str] = &[
    "root=/dev/mapper/root rootfstype=erofs ro",
    // A modified root must not run, not even with one damaged file.
    "systemd.verity_root_options=panic-on-corruption panic=30",
    // All partitions have explicit names; systemd must not guess any from its type.
    "systemd.gpt_auto=0 rd.shell=0 loglevel=4",
];

/// The kernel command line. `extra`, from the topology, is last and so wins where options conflict.
pub fn cmdline(root_hash: &str, console: &[String], extra: &[String]) -> String {
    // The ids of the partitions of root and hash tree are the two halves of this hash.
    let mut words = vec![format!("roothash={root_hash}")];
    words.extend(CMDLINE.iter().map(|&words| words.to_owned()));
    words.extend(console.iter().map(|device| format!("console={device}")));
    words.extend(extra.iter().cloned());
    words.join(" ")
}

/// Builds `work/uki.efi` with the kernel of the tools tree and returns its path.
pub fn build(
    tools: &Tree,
    release: &str,
    initrd: &Path,
    cmdline: &str,
    os_release: &[u8],
    work: &Path,
) -> Result<PathBuf> {
    let os_release_file = work.join("os-release");
    std::fs::write(&os_release_file, os_release)
        .with_context(|| format!("writing `{}`", os_release_file.display()))?;
    let uki = work.join("uki.efi");
    let name = |path: &Path| -> Result<String> {
        let name = path.file_name().context("a file without a name")?;
        Ok(format!("/tmp/work/{}", name.to_string_lossy()))
    };
    let mut ukify = tools.chroot(&[(work, "/tmp/work")], "ukify")?;
    ukify.arg("build");
    ukify.arg(format!("--linux=/boot/vmlinuz-{release}"));
    ukify.arg(format!("--initrd={}", name(initrd)?));
    ukify.arg(format!("--cmdline={cmdline}"));
    ukify.arg(format!("--uname={release}"));
    ukify.arg(format!("--os-release=@{}", name(&os_release_file)?));
    ukify.arg(format!("--output={}", name(&uki)?));
    process::run(&mut ukify)?;
    Ok(uki)
}

/// The part of the image's key that this module decides.
pub(super) fn recipe() -> String {
    format!("{CMDLINE:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topology_arguments_are_last() {
        let line = cmdline("ab", &["ttyS0".into()], &["loglevel=7".into()]);
        assert!(line.starts_with("roothash=ab "), "{line}");
        assert!(line.ends_with("console=ttyS0 loglevel=7"), "{line}");
    }
}
