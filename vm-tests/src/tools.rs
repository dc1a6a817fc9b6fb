//! The Debian 13 tools tree that QEMU, its firmware and libfaketime come from.
//!
//! It does not make the tree (`build_tools::debian_tree` does) and does not enter it: a program runs through
//! the tree's own dynamic loader, so neither root nor the host's versions matter.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A root file system that programs are run from.
#[derive(Debug, Clone)]
pub struct ToolsTree {
    root: PathBuf,
}

impl ToolsTree {
    /// Takes a tree that holds at least QEMU and OVMF; says what is missing otherwise.
    pub fn at(root: &Path) -> Result<Self> {
        let tree = Self {
            root: root.to_path_buf(),
        };
        let needed = [
            tree.loader(),
            tree.path("usr/bin/qemu-system-x86_64"),
            tree.path("usr/bin/qemu-img"),
            tree.firmware_code(),
            tree.firmware_variables(),
            tree.faketime(),
        ];
        for path in needed {
            if !path.exists() {
                bail!(
                    "tools tree `{}` has no `{}`",
                    root.display(),
                    path.display()
                );
            }
        }
        Ok(tree)
    }

    /// For tests that only look at names.
    #[cfg(test)]
    pub(crate) fn unchecked(root: &str) -> Self {
        Self { root: root.into() }
    }

    /// A path inside the tree.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside)
    }

    pub fn firmware_code(&self) -> PathBuf {
        self.path("usr/share/OVMF/OVMF_CODE_4M.fd")
    }

    pub fn firmware_variables(&self) -> PathBuf {
        self.path("usr/share/OVMF/OVMF_VARS_4M.fd")
    }

    pub fn faketime(&self) -> PathBuf {
        self.path("usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
    }

    /// Where QEMU looks for option ROMs and the BIOS that starts `-kernel`.
    pub fn qemu_data(&self) -> [PathBuf; 2] {
        [self.path("usr/share/qemu"), self.path("usr/share/seabios")]
    }

    /// The tree's kernel, as the package manager installed it.
    pub fn kernel(&self) -> Result<Kernel> {
        Kernel::of(&self.root)
    }

    /// A program of the tree; `preload` names libraries that get in before the program's own.
    pub fn command(&self, program: &str, preload: Option<&Path>) -> Command {
        let mut command = Command::new(self.loader());
        command.arg("--library-path").arg(format!(
            "{}:{}",
            self.path("usr/lib/x86_64-linux-gnu").display(),
            self.path("lib/x86_64-linux-gnu").display()
        ));
        if let Some(library) = preload {
            command.arg("--preload").arg(library);
        }
        command.arg(self.path("usr").join(program));
        command
    }

    fn loader(&self) -> PathBuf {
        self.path("lib64/ld-linux-x86-64.so.2")
    }
}

/// One kernel with its modules.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub image: PathBuf,
    /// `…/lib/modules/<release>`.
    pub modules: PathBuf,
}

impl Kernel {
    /// The newest kernel in a Debian tree.
    pub fn of(tree: &Path) -> Result<Self> {
        let modules = tree.join("usr/lib/modules");
        // Before trixie the kernel's package still says /lib, which is a link.
        let modules = if modules.exists() {
            modules
        } else {
            tree.join("lib/modules")
        };
        let release = std::fs::read_dir(&modules)
            .with_context(|| format!("looking for a kernel in `{}`", modules.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .max()
            .with_context(|| format!("`{}` holds no kernel's modules", modules.display()))?;
        let image = tree.join(format!("boot/vmlinuz-{release}"));
        if !image.exists() {
            bail!("kernel {release} has modules but no `{}`", image.display());
        }
        Ok(Self {
            image,
            modules: modules.join(release),
        })
    }
}

/// Runs a short program to its end; its last lines of stderr become the error.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{command:?}: {}: {}",
            output.status,
            tail(stderr.trim_end(), 8)
        );
    }
    Ok(output.stdout)
}

/// The last `count` lines.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
