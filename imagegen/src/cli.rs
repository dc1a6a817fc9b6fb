//! The command line. Doc comments are the help text: 80 columns.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Makes an immutable Kubernetes node image and one document per host from a
/// topology and an offline package.
///
/// Without a command it does everything: it validates the topology, keeps or
/// makes the PKI, writes a document and a seed disk for each host, and builds
/// the node image. Run again with nothing changed, it does nothing; with only
/// the topology changed, it makes only documents.
#[derive(Debug, Parser)]
#[command(name = "imagegen", version, max_term_width = 80, after_help = EXIT, args_conflicts_with_subcommands = false)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXIT: &str = "Exit status:
  0  done, or nothing to do
  1  failed; the output folder is as it was, or complete
  2  wrong usage
  3  the topology was refused; nothing was written";

#[derive(Debug, Args)]
pub struct Common {
    /// The topology: what a person writes about one cluster and its hosts
    #[arg(long, short, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub topology: Option<PathBuf>,
    /// The offline package, over the topology's own: a folder, .tar, .tar.gz
    /// or .tar.zst
    #[arg(long, short, global = true, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    pub package: Option<PathBuf>,
    /// Where results go [default: ./CLUSTER]
    #[arg(long, short, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub output: Option<PathBuf>,
    /// The folder of the static programs firstboot and lvscare, which the image
    /// carries [default: imagegen's own folder]
    #[arg(long, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub programs: Option<PathBuf>,
    /// Also make node.qcow2, the node image for hypervisors
    #[arg(long, global = true)]
    pub qcow2: bool,
    /// Tell more on standard error
    #[arg(long, short, global = true)]
    pub verbose: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check the topology; every finding in one run, with its place
    Validate,
    /// Show what would be made: hosts, secrets, and each host's first boot
    Plan {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Make documents, seed disks and admin.conf only, no image
    Userdata,
    /// Make the node image only
    Image,
    /// Build the default offline package at --output [default: kube.tar.zst], or
    /// list what is in the one at --package
    Package {
        /// The release of Kubernetes to build: `1.34`, `v1.34.4` [default: the
        /// newest that imagegen knows]
        #[arg(long, value_name = "VERSION", conflicts_with = "package")]
        kubernetes: Option<String>,
    },
    /// Print the JSON schema of the topology, for editors
    Schema,
    /// Print a shell's completion script
    Completions { shell: Shell },
    /// Print the manual page, or write one for each command into a folder
    Man {
        #[arg(value_hint = clap::ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}
