//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Configures this machine as the Kubernetes host that its document describes.
///
/// Finds the document that the kernel command line, a credential, a disk, the
/// image's seed partition or a cloud's metadata has for it, checks it completely,
/// and runs the steps that are not done yet.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// Work on this directory instead of the running machine: write files, skip
    /// steps that need a running system.
    #[arg(long, value_name = "DIR", default_value = "/", global = true)]
    pub root: PathBuf,

    /// Read the document from this folder and from no other source.
    #[arg(long, value_name = "DIR")]
    pub seed: Option<PathBuf>,

    /// Print the steps for the document and exit.
    #[arg(long)]
    pub plan: bool,

    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Show what firstboot has done, does or waits for.
    Status {
        /// Print JSON, as in `/run/firstlight/status.json`.
        #[arg(long)]
        json: bool,

        /// Show every host of the cluster; only on control-plane hosts. The exit
        /// status is 0 only if all are ready.
        #[arg(long)]
        all: bool,

        /// Timeout for each host; a slow one under load takes two seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 5, requires = "all")]
        timeout: u64,
    },

    /// Forget this machine's document, so that the next boot takes the first one
    /// that it finds. Without this, only a newer document that the cluster's key
    /// has signed for this host is taken.
    Reset,

    /// Install this machine, which booted over the network, on a disk: the root that
    /// runs and this machine's document. Everything on the disk is lost.
    Install {
        /// The disk, for example /dev/nvme0n1
        #[arg(long, value_name = "DISK")]
        to: PathBuf,

        /// Do not ask before the disk is erased.
        #[arg(long, short)]
        yes: bool,
    },

    /// Serve one status request on standard input.
    #[command(hide = true)]
    ServeStatus,

    /// Write `/etc/resolv.conf` from the document and the leases of systemd-networkd.
    #[command(hide = true)]
    ResolvConf,

    /// In the initrd: tell on the screen why this machine does not boot.
    #[command(hide = true)]
    Explain,

    /// In the initrd: fail unless exactly one attached disk carries the root that runs.
    #[command(hide = true)]
    CheckBootDisk,

    /// In the initrd, with encrypted state: make the state partition, or let it grow.
    #[command(hide = true)]
    MakeState,

    /// In the initrd: open the state partition of the boot disk if it is encrypted, and link
    /// `/run/firstlight/state` to it.
    #[command(hide = true)]
    LinkState,

    /// In the initrd: get the root from the server or medium of `firstlight.root=`.
    #[command(hide = true)]
    AttachRoot,

    /// In the initrd: link `/run/firstlight/state` to state on a disk or in memory.
    #[command(hide = true)]
    PrepareState,
}
