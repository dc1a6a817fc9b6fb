//! The Debian 13 root file system that QEMU, its firmware and libfaketime come from.
//!
//! `build_tools::debian_tree` builds it. Its programs run through its own dynamic loader and
//! without chroot, so they need neither root privileges nor libraries of the host.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A Debian root file system whose programs run on the host.
#[derive(Debug, Clone)]
pub struct DebianTools {
    root: PathBuf,
}

impl DebianTools {
    /// Opens a tree. Fails with the name of the first file that the harness needs and it lacks.
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
                    "the Debian tree `{}` has no `{}`",
                    root.display(),
                    path.display()
                );
            }
        }
        Ok(tree)
    }

    /// For tests that only compare paths.
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

    /// The firmware with Secure Boot, which needs system management mode.
    pub fn secure_firmware_code(&self) -> PathBuf {
        self.path("usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
    }

    /// Variables in which Debian's test key is enrolled, and no other.
    pub fn secure_firmware_variables(&self) -> PathBuf {
        self.path("usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd")
    }

    /// That key, with the passphrase `snakeoil`, and its certificate.
    pub fn secure_boot_key(&self) -> [PathBuf; 2] {
        ["key", "pem"].map(|end| self.path(&format!("usr/share/ovmf/PkKek-1-snakeoil.{end}")))
    }

    pub fn faketime(&self) -> PathBuf {
        self.path("usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
    }

    /// Where QEMU finds option ROMs and the BIOS that `-kernel` needs.
    pub fn qemu_data(&self) -> [PathBuf; 2] {
        [self.path("usr/share/qemu"), self.path("usr/share/seabios")]
    }

    /// The tree's kernel, as the package manager installed it.
    pub fn kernel(&self) -> Result<Kernel> {
        Kernel::of(&self.root)
    }

    /// A program of the tree; `preload` is a library that is loaded before the program's own.
    pub fn command(&self, program: &str, preload: Option<&Path>) -> Command {
        let mut command = Command::new(self.loader());
        command.arg("--library-path").arg(format!(
            "{}:{}:{}",
            self.path("usr/lib/x86_64-linux-gnu").display(),
            self.path("lib/x86_64-linux-gnu").display(),
            // swtpm's own.
            self.path("usr/lib/x86_64-linux-gnu/swtpm").display()
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
        // Before trixie the kernel package still installs to /lib, which is a symbolic link.
        let modules = if modules.exists() {
            modules
        } else {
            tree.join("lib/modules")
        };
        let release = std::fs::read_dir(&modules)
            .with_context(|| format!("reading the kernels in `{}`", modules.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .max()
            .with_context(|| format!("`{}` has no kernel modules", modules.display()))?;
        let image = tree.join(format!("boot/vmlinuz-{release}"));
        if !image.exists() {
            bail!("kernel {release} has modules and no `{}`", image.display());
        }
        Ok(Self {
            image,
            modules: modules.join(release),
        })
    }
}
