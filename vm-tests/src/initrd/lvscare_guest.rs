//! The machine in which the program `lvscare-guest` tests lvscare beside other load balancers.
//!
//! It contains the balancers of Debian with their libraries, and the kernel of one of two Debian
//! releases. The program reports in lines of JSON.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use build_tools::debian_tree::{Spec, Tree};
use build_tools::progress::Progress;
use serde_json::Value;

use crate::host::Host;
use crate::host::artifacts::Programs;
use crate::host::debian_tools::Kernel;
use crate::host::process;
use crate::host::run_dir::RunDir;
use crate::initrd::{InitrdTest, Outcome};

/// Loaded before the program runs; it needs them for its networks.
const MODULES: &[&str] = &[
    "bridge",
    "veth",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_ct",
    "sch_netem",
];

/// The kernel loads these when lvscare first needs them.
const AUTOLOAD: &[&str] = &["ip_vs", "ip_vs_rr", "ip_vs_fo", "inet_diag", "tcp_diag"];

/// Paths in the Debian tree and in the machine.
const PROGRAMS: &[(&str, &str)] = &[
    ("usr/sbin/keepalived", "usr/sbin/keepalived"),
    ("usr/sbin/haproxy", "usr/sbin/haproxy"),
    ("usr/sbin/nginx", "usr/sbin/nginx"),
    (
        "usr/lib/nginx/modules/ngx_stream_module.so",
        "usr/lib/nginx/modules/ngx_stream_module.so",
    ),
    ("usr/sbin/ipvsadm", "bin/ipvsadm"),
    ("usr/sbin/nft", "bin/nft"),
    ("usr/bin/ip", "bin/ip"),
    ("usr/sbin/tc", "bin/tc"),
    ("usr/bin/setpriv", "bin/setpriv"),
    ("usr/bin/kmod", "sbin/modprobe"),
];

/// keepalived does not start without this file.
const BUILD_OPTIONS: &str = "etc/keepalived/keepalived.config-opts";

const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The Debian release of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Debian 12: 6.1.
    Bookworm,
    /// Debian 13: 6.12.
    Trixie,
}

/// Runs `lvscare-guest` with `arguments`. `deadline` is the one on a machine with KVM.
pub fn run(
    host: &Host,
    run_dir: &RunDir,
    release: Release,
    arguments: &[&str],
    deadline: Duration,
) -> Result<Outcome> {
    let lvscare = Programs::build_static()?.join("lvscare");
    let guest = Programs::build_lvscare_guest()?;
    let mut test = InitrdTest::new(&format!("lvscare-{}", arguments[0]), &guest)
        .arguments(arguments)
        .modules(MODULES)
        .autoload(AUTOLOAD)
        .kernel(kernel(host, release)?)
        .size(2, 1024)
        .file("/bin/lvscare", fs::read(lvscare)?)
        .file("/etc/passwd", "root:x:0:0:root:/:/bin/sh\n")
        .file("/etc/group", "root:x:0:\n");
    for (path, bytes) in programs(host)? {
        test = test.file(&path, bytes);
    }
    test.run(host, run_dir, deadline)
}

/// The lines of JSON in the output.
pub fn facts(outcome: &Outcome) -> Result<Vec<Value>> {
    let lines = outcome.output.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| serde_json::from_str(line).with_context(|| format!("reading `{line}`")))
        .collect()
}

fn kernel(host: &Host, release: Release) -> Result<Kernel> {
    match release {
        Release::Trixie => host.tools().kernel(),
        Release::Bookworm => {
            let packages = ["linux-image-cloud-amd64"];
            let spec = Spec::new("tests on kernel 6.1", "bookworm", "apt", &packages);
            let tree = Tree::ensure(host.cache(), &spec, &Progress::stderr())?;
            Kernel::of(tree.path())
        }
    }
}

/// The Debian tree with the load balancers that lvscare is compared with.
pub fn other_balancers(host: &Host) -> Result<PathBuf> {
    let packages = [
        "keepalived",
        "haproxy",
        "nginx",
        "libnginx-mod-stream",
        "ipvsadm",
        "nftables",
        "iproute2",
        "kmod",
        "util-linux",
    ];
    let spec = Spec::new("other load balancers", "trixie", "apt", &packages);
    let tree = Tree::ensure(host.cache(), &spec, &Progress::stderr())?;
    Ok(tree.path().to_owned())
}

/// The programs and the libraries that they are linked with.
fn programs(host: &Host) -> Result<BTreeMap<String, Vec<u8>>> {
    let root = &other_balancers(host)?;
    let mut files = BTreeMap::new();
    let mut add = |inside: String, path: &Path| -> Result<()> {
        let bytes = fs::read(path).with_context(|| format!("reading `{}`", path.display()))?;
        files.insert(inside, bytes);
        Ok(())
    };
    for (from, to) in PROGRAMS {
        add(format!("/{to}"), &root.join(from))?;
        for library in libraries(root, from)? {
            let name = library.file_name().unwrap_or_default().to_string_lossy();
            add(format!("/lib/x86_64-linux-gnu/{name}"), &library)?;
        }
    }
    for path in [LOADER, BUILD_OPTIONS] {
        add(format!("/{path}"), &root.join(path))?;
    }
    Ok(files)
}

/// The libraries that the tree's dynamic loader loads for a program.
fn libraries(root: &Path, program: &str) -> Result<Vec<PathBuf>> {
    let mut loader = Command::new(root.join(LOADER));
    loader.arg("--library-path").arg(root.join(LIBRARIES));
    loader.arg("--list").arg(root.join(program));
    let output = String::from_utf8(process::run(&mut loader)?)?;
    let mut found = Vec::new();
    for line in output.lines() {
        // `	libssl.so.3 => /tree/usr/lib/x86_64-linux-gnu/libssl.so.3 (0x00007f...)`
        let Some((_, path)) = line.split_once(" => ") else {
            continue;
        };
        let path = Path::new(path.split(" (").next().unwrap_or(path));
        ensure!(
            path.starts_with(root),
            "`{program}` of the tree `{}` would load `{}` of the host",
            root.display(),
            path.display()
        );
        found.push(path.to_path_buf());
    }
    Ok(found)
}
