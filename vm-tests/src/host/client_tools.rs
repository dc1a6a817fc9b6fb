//! The Debian tree with what the clients of cloud-init use: a writer of ISO images, and a DHCP
//! server for those that serve documents over the network.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use build_tools::debian_tree::{Spec, Tree};
use build_tools::progress::Progress;

use super::Host;
use super::process;

/// What an ISO image says of the names of its files, besides the 8.3 names of ISO 9660.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Iso {
    /// `-joliet -rock`: virt-install, Proxmox, KubeVirt, cloud-localds, nova.
    RockRidge,
    /// Multipass.
    Joliet,
    /// Lower case in ISO 9660 itself: Terraform's libvirt provider.
    Plain,
}

impl Iso {
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::RockRidge => &["-joliet", "-rock"],
            Self::Joliet => &["-joliet", "--norock"],
            Self::Plain => &[
                "-iso-level",
                "3",
                "-allow-lowercase",
                "-relaxed-filenames",
                "--norock",
            ],
        }
    }
}

#[derive(Debug)]
pub struct ClientTools(Tree);

impl ClientTools {
    pub fn ensure(host: &Host) -> Result<Self> {
        let packages = ["xorriso", "dnsmasq-base"];
        let spec = Spec::new("clients of cloud-init", "trixie", "apt", &packages);
        Ok(Self(Tree::ensure(
            host.cache(),
            &spec,
            &Progress::stderr(),
        )?))
    }

    /// Writes an image of `folder` with this label.
    pub fn iso(&self, folder: &Path, label: &str, names: Iso, to: &Path) -> Result<()> {
        let mut xorriso = self.0.program("xorriso")?;
        xorriso.args(["-as", "mkisofs", "-quiet", "-volid", label]);
        xorriso.args(names.options()).arg("-output").arg(to);
        process::run(xorriso.arg(folder)).with_context(|| format!("writing `{}`", to.display()))?;
        Ok(())
    }

    pub(crate) fn dnsmasq(&self) -> Result<Command> {
        self.0.program("dnsmasq")
    }
}
