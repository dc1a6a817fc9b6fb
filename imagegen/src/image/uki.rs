//! The unified kernel image: kernel, initrd and a command line that names the root's hash, in one EFI program.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use build_tools::debian_tree::Tree;
use build_tools::process;

/// The kernel command line. `extra` comes from the topology and stands last, so that it wins where options conflict.
pub fn cmdline(root_hash: &str, console: &[String], extra: &[String]) -> String {
    let mut words = vec![
        // systemd finds root and hash tree by partition ids, which are the two halves of this hash.
        format!("roothash={root_hash}"),
        "root=/dev/mapper/root rootfstype=erofs ro".to_owned(),
        // A root that was tampered with must not run, not even with one file missing.
        "systemd.verity_root_options=panic-on-corruption panic=30".to_owned(),
        // All partitions are named explicitly; nothing is to be guessed from types.
        "systemd.gpt_auto=0 rd.shell=0 loglevel=4".to_owned(),
    ];
    words.extend(console.iter().map(|device| format!("console={device}")));
    words.extend(extra.iter().cloned());
    words.join(" ")
}

/// Assembles `work/uki.efi` from the tools tree's kernel; returns its path.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topology_has_the_last_word() {
        let line = cmdline("ab", &["ttyS0".into()], &["loglevel=7".into()]);
        assert!(line.starts_with("roothash=ab "), "{line}");
        assert!(line.ends_with("console=ttyS0 loglevel=7"), "{line}");
    }
}
