//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Makes this machine the Kubernetes host that its document says it is.
///
/// Looks for a NoCloud seed on a disk labelled `cidata` and on the image's own
/// seed partition, checks all of it, and does what is not done yet.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// Work on this directory instead of the running machine: files are written,
    /// steps that need a running machine are passed over.
    #[arg(long, value_name = "DIR", default_value = "/", global = true)]
    pub root: PathBuf,

    /// Take the document from this folder and ask no other source.
    #[arg(long, value_name = "DIR")]
    pub seed: Option<PathBuf>,

    /// Print the steps for the document that is found, and stop.
    #[arg(long)]
    pub plan: bool,

    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// Say what firstboot has done, does or waits for on this machine.
    Status {
        /// For programs; of this machine, as in `/run/firstlight/status.json`.
        #[arg(long)]
        json: bool,

        /// Of every host of the cluster, those that are not there too; on a master.
        /// The exit status is 0 only if all are ready.
        #[arg(long)]
        all: bool,

        /// Give each host so long to answer; a slow one under load takes two.
        #[arg(long, value_name = "SECONDS", default_value_t = 5, requires = "all")]
        timeout: u64,
    },

    /// Tell the status to the master whose connection standard input is.
    #[command(hide = true)]
    ServeStatus,

    /// In the initrd: fail unless exactly one attached disk carries the root that runs.
    #[command(hide = true)]
    CheckBootDisk,

    /// In the initrd: link `/run/firstlight/state` to the state partition of the boot disk.
    #[command(hide = true)]
    LinkState,
}
