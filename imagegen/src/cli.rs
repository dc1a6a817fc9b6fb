//! The command line. Doc comments are help texts of at most 80 columns.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::upstream;

/// Builds an immutable Kubernetes node image and one document per host from a
/// topology and an offline package.
///
/// Without a command it does everything: it validates the topology, creates the
/// PKI or keeps the existing one, writes a document and a seed disk for each
/// host, and builds the node image. A second run with equal inputs changes
/// nothing; after a change of hosts, only documents are written.
#[derive(Debug, Parser)]
#[command(name = "imagegen", version, max_term_width = 80, after_help = EXIT)]
#[command(args_conflicts_with_subcommands = false)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXIT: &str = "Exit status:
  0  success, or everything is up to date
  1  failure; all results in the output folder are complete
  2  wrong usage
  3  invalid topology; nothing was written";

#[derive(Debug, Args)]
pub struct Common {
    /// The topology, which describes one cluster and its hosts
    #[arg(long, short, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub topology: Option<PathBuf>,
    /// The offline package, instead of the topology's: a folder or a tar
    /// archive, plain or compressed by gzip, zstd or xz
    #[arg(long, short, global = true, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    pub package: Option<PathBuf>,
    /// The output folder [default: ./CLUSTER]
    #[arg(long, short, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub output: Option<PathBuf>,
    /// The folder of the static programs firstboot and lvscare for the image
    /// [default: imagegen's own folder]
    #[arg(long, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub programs: Option<PathBuf>,
    /// Also write node.qcow2, the node image for hypervisors
    #[arg(long, global = true)]
    pub qcow2: bool,
    /// Also write pxe/, for boots over the network and from media
    #[arg(long, global = true)]
    pub pxe: bool,
    /// Print more log messages to standard error
    #[arg(long, short, global = true)]
    pub verbose: bool,
}

#[derive(Debug, Args)]
pub struct Flash {
    /// The host in the output folder whose seed the disk gets
    #[arg(long, value_name = "NAME")]
    pub host: String,
    /// Create the file with this size, or grow it: `20G`, `20480M`
    #[arg(long, value_name = "SIZE", value_parser = crate::flash::parse_size)]
    pub size: Option<u64>,
    /// The logical sectors of the virtual disk that the file becomes, 512 or
    /// 4096; a disk tells its own [default: 512]
    #[arg(long, value_name = "BYTES", value_parser = crate::flash::parse_sector)]
    pub sector_size: Option<u64>,
    /// Do not ask before the disk is erased
    #[arg(long, short)]
    pub yes: bool,
    /// The disk, for example /dev/sdX or a link in /dev/disk/by-id, or a file
    #[arg(value_name = "DISK", value_hint = clap::ValueHint::FilePath)]
    pub disk: PathBuf,
}

#[derive(Debug, Args)]
pub struct Iso {
    /// The host whose document is on the medium
    #[arg(long, value_name = "NAME", required_unless_present = "all_hosts")]
    pub host: Option<String>,
    /// The documents of all hosts: each machine takes its own
    #[arg(long, conflicts_with = "host")]
    pub all_hosts: bool,
    /// The file [default: NAME.iso, or hosts.iso]
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Serve {
    /// The output folder, with pxe/ and the hosts' documents [default: --output]
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// The card of this machine on the hosts' network: also serve DHCP and TFTP
    /// there, by dnsmasq, for the hosts of the topology only
    #[arg(long, value_name = "CARD")]
    pub interface: Option<String>,
    /// With --interface: `proxy` beside a DHCP server of the network, or `full`,
    /// which gives each host its address of the topology
    #[arg(long, value_enum, default_value_t = DhcpMode::Proxy, requires = "interface")]
    pub dhcp: DhcpMode,
    /// Listen on this IPv4 address [default: that of the card, else all]
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<std::net::Ipv4Addr>,
    /// The TCP port of HTTP
    #[arg(long, value_name = "PORT", default_value_t = 8069)]
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DhcpMode {
    Proxy,
    Full,
}

impl DhcpMode {
    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Proxy => "proxy-DHCP and TFTP",
            Self::Full => "DHCP and TFTP",
        }
    }
}

/// The runtime of a package's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PackageRuntime {
    Containerd,
    Docker,
}

/// The architecture of a package's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// Of this machine.
    pub fn here() -> Self {
        match std::env::consts::ARCH {
            "aarch64" => Self::Arm64,
            _ => Self::Amd64,
        }
    }

    /// As Kubernetes, Go and image registries write it.
    pub fn kubernetes(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As the kernel writes it.
    pub fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// Whether imagegen builds node images for it.
    pub fn is_baked(self) -> bool {
        self == Self::Amd64
    }
}

#[derive(Debug, Args)]
pub struct Upstream {
    /// The release of Kubernetes: `v1.34.4`, or `1.34` for its newest
    #[arg(long, value_name = "VERSION", value_parser = upstream::parse_kubernetes)]
    pub kubernetes: upstream::Kubernetes,
    /// The container runtime; docker brings cri-dockerd from Kubernetes 1.24 on
    #[arg(long, value_enum, default_value_t = PackageRuntime::Containerd)]
    pub runtime: PackageRuntime,
    /// The pod network: flannel of upstream, the manifest of another, or none
    #[arg(long, value_name = "flannel|none|FILE", default_value = "flannel")]
    #[arg(value_parser = upstream::parse_cni)]
    pub cni: upstream::Cni,
    /// A manifest that master0 applies too; repeat it for more
    #[arg(long = "manifest", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub manifests: Vec<PathBuf>,
    /// An image that no manifest names; repeat it for more
    #[arg(long = "image", value_name = "NAME:TAG")]
    pub images: Vec<String>,
    /// The architecture of the nodes
    #[arg(long, value_enum, default_value_t = Arch::Amd64)]
    pub arch: Arch,
    /// Another release of containerd, runc, cni-plugins, crictl, flannel, docker or
    /// cri-dockerd; repeat it for more
    #[arg(long = "release", value_name = "NAME=VERSION")]
    #[arg(value_parser = upstream::parse_release)]
    pub releases: Vec<upstream::Release>,
    /// A mirror of files, with a folder for each of upstream's hosts:
    /// URL/dl.k8s.io/…; or of one host
    #[arg(long = "mirror", value_name = "[HOST=]URL")]
    #[arg(value_parser = upstream::parse_mirror)]
    pub mirrors: Vec<upstream::Mirror>,
    /// A mirror of images, with a path for each registry: NAME/registry.k8s.io/…;
    /// or of one registry
    #[arg(long = "registry", value_name = "[REGISTRY=]NAME")]
    #[arg(value_parser = upstream::parse_registry)]
    pub registries: Vec<upstream::Mirror>,
    /// The certificate (PEM) of an authority of the mirrors, besides the system's
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub ca: Option<PathBuf>,
    /// The SHA-256 that a file must have, instead of upstream's checksum; repeat it
    /// for more
    #[arg(long = "sha256", value_name = "FILE=HEX", value_parser = upstream::parse_pin)]
    pub pins: Vec<upstream::Pin>,
    /// Seconds after which a silent connection is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check the topology and report every mistake with its position
    Validate,
    /// Print hosts, secrets, and the first-boot steps of each host
    Plan {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write documents, seed disks and admin.conf only, no image
    Userdata,
    /// Build the node image only
    Image,
    /// Write the node image and a host's seed to a disk, or to a file for a VM
    ///
    /// The disk must not be in use. Everything on it is lost. The command shows the
    /// disk and asks, writes, and reads everything back.
    Flash(Flash),
    /// Write a boot medium (UEFI) for a BMC's virtual media, optical drives and
    /// sticks, with one host's document or all
    ///
    /// Needs pxe/ in the output folder: `imagegen image --pxe`. The file has the
    /// private keys of its hosts.
    Iso(Iso),
    /// Serve machines that boot over the network: pxe/ to everybody, each document
    /// only to its host
    ///
    /// HTTP, and with --interface DHCP and TFTP. Runs until Ctrl-C and shows what
    /// each machine has fetched. A document travels unencrypted: use a network
    /// that only the machines and you can reach.
    Serve(Serve),
    /// Build the default offline package at --output [default: kube.tar.zst], or
    /// list the contents of --package
    Package {
        /// The release of Kubernetes to build: `1.34`, `v1.34.4` [default: the
        /// newest that imagegen knows]
        #[arg(long, value_name = "VERSION", conflicts_with = "package")]
        kubernetes: Option<String>,
        #[command(subcommand)]
        action: Option<PackageAction>,
    },
    /// Show the certificates and keys of an output folder, or replace the
    /// authority of clients
    Pki {
        #[command(subcommand)]
        action: PkiAction,
    },
    /// Write reset-NAME.img, a seed disk with which a host forgets its document
    ///
    /// A host takes only newer documents that this folder's pki/document.key has
    /// signed. After the token it takes the next one, whatever its signature.
    ResetToken {
        /// The host of the topology
        #[arg(long, value_name = "NAME")]
        host: String,
    },
    /// Print the JSON schema of the topology for editors
    Schema,
    /// Print a shell's completion script
    Completions { shell: Shell },
    /// Print the manual page, or write a page for each command to a folder
    Man {
        #[arg(value_hint = clap::ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum PkiAction {
    /// Print every certificate with its holder and its end; exit status 1 if one
    /// has ended
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Replace the authority that signs client certificates, in three phases, and
    /// expel hosts; without an option, show the phase and what to do next
    ///
    /// Each phase writes new documents. Every host must have its own, and be ready,
    /// before the next phase begins: 1. hosts accept clients of the old and of the
    /// new authority; 2. clients get certificates of the new one, except those of
    /// expelled hosts; 3. hosts accept the new one only, and the certificates of
    /// expelled hosts are worthless.
    Rotate(Rotate),
}

#[derive(Debug, Args)]
pub struct Rotate {
    /// Begin a rotation that expels this worker; repeat it for several. Also adds
    /// workers during phase 1
    #[arg(long, value_name = "NAME")]
    pub expel: Vec<String>,
    /// Begin a rotation that expels no host
    #[arg(long)]
    pub start: bool,
    /// Begin the next phase, or end the last one
    #[arg(long, conflicts_with_all = ["expel", "start"])]
    pub next: bool,
    /// With --next: the output of `firstboot status --all --json` on a master (`-`
    /// is standard input), which must show that every host has its document
    #[arg(long, value_name = "FILE", requires = "next", value_hint = clap::ValueHint::FilePath)]
    pub status: Option<PathBuf>,
    /// With --next: every host has its document, and imagegen does not check it
    #[arg(long, requires = "next", conflicts_with = "status")]
    pub unchecked: bool,
}

#[derive(Debug, Subcommand)]
pub enum PackageAction {
    /// Make a package of upstream's own releases at --output [default:
    /// kube.tar.zst]
    ///
    /// Downloads programs from dl.k8s.io, github.com and download.docker.com with
    /// curl, and compares their checksums. Pulls with skopeo the images that kubeadm
    /// and the manifests name, with the credentials of docker's configuration. All
    /// of it stays in the cache, so a second run fetches only what is missing.
    Upstream(Box<Upstream>),
    /// Print what becomes of each part of a package, and all that is wrong with
    /// it; exit status 1 if no image can be built of it
    Inspect {
        /// A folder or a tar archive
        #[arg(value_name = "PACKAGE", value_hint = clap::ValueHint::AnyPath)]
        path: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}
