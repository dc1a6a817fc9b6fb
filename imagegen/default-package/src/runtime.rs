//! The container runtime's archive, and what comes from Debian: runc, the base of kube-proxy and
//! flannel, and for Kubernetes 1.20 containerd and etcd.
//!
//! Debian's programs come from a tree of Debian 13, the release of the node image, so that its
//! libraries are theirs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::container;
use super::parts::{Containerd, Parts};
use super::release::{Release, Source};
use crate::tarball::Item;
use build_tools::debian_tree::Spec;
use build_tools::process;

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";

/// Only extracted: nothing of it is installed or run, except the loader.
pub(super) fn tree(release: &Release) -> Spec {
    let mut packages = vec![
        "base-files",
        "conntrack",
        "ipset",
        "iptables",
        "netbase",
        "nftables",
        "runc",
    ];
    if matches!(release.source, Source::Debian) {
        packages.extend(["containerd", "etcd-client", "etcd-server"]);
    }
    Spec::new("the container runtime", "trixie", "extract", &packages)
}

/// What `containerd.tar.gz` holds: containerd, its shim, ctr, runc and the CNI plugins.
pub(super) fn containerd(parts: &Parts) -> Result<BTreeMap<String, Item>> {
    let tree = parts.tree.path();
    let mut files = vec![("bin/runc".to_owned(), tree.join("usr/sbin/runc"))];
    for name in ["containerd", "containerd-shim-runc-v2", "ctr"] {
        let file = match &parts.containerd {
            Containerd::Debian => tree.join("usr/bin").join(name),
            Containerd::Module(built) => built.file(name),
        };
        files.push((format!("bin/{name}"), file));
    }
    for plugins in [&parts.cni_plugins, &parts.flannel_cni] {
        let folder = plugins.folder();
        for entry in
            std::fs::read_dir(folder).with_context(|| format!("reading `{}`", folder.display()))?
        {
            let name = entry?.file_name();
            let name = name.to_str().context("a CNI plugin's name is not UTF-8")?;
            files.push((format!("cni/bin/{name}"), plugins.file(name)));
        }
    }
    let borrowed: Vec<_> = files
        .iter()
        .map(|(name, path)| (name.as_str(), path.clone()))
        .collect();
    let mut items = container::programs(&borrowed);
    for folder in ["bin", "cni", "cni/bin"] {
        items.insert(folder.to_owned(), Item::Folder { mode: 0o755 });
    }
    Ok(items)
}

/// What every image has: users, names, a /tmp.
pub(super) fn skeleton() -> BTreeMap<String, Item> {
    let text = |text: &str| Item::Bytes {
        bytes: text.as_bytes().to_vec(),
        mode: 0o644,
    };
    BTreeMap::from(
        [
            ("etc/passwd", text("root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")),
            ("etc/group", text("root:x:0:\nnogroup:x:65534:\n")),
            // Without it a resolver may ask DNS first, and an air-gapped cluster has none.
            ("etc/nsswitch.conf", text("hosts: files dns\n")),
            ("root", Item::Folder { mode: 0o700 }),
            ("tmp", Item::Folder { mode: 0o1777 }),
            ("usr/local/bin", Item::Folder { mode: 0o755 }),
            ("var/tmp", Item::Folder { mode: 0o1777 }),
        ]
        .map(|(name, item)| (name.to_owned(), item)),
    )
}

/// `programs` (paths in the tree) with the loader and every library they load, in Debian's places.
pub(super) fn with_libraries(tree: &Path, programs: &[&str]) -> Result<BTreeMap<String, Item>> {
    let mut items = BTreeMap::new();
    for link in ["bin", "lib", "lib64", "sbin"] {
        items.insert(
            link.to_owned(),
            Item::Link {
                to: format!("usr/{link}"),
            },
        );
    }
    items.insert(LOADER.to_owned(), program(tree, LOADER)?);
    for name in programs {
        items.extend(libraries_of(tree, name)?);
    }
    Ok(items)
}

/// What a program or a library of the tree loads, in Debian's places.
fn libraries_of(tree: &Path, name: &str) -> Result<BTreeMap<String, Item>> {
    let found = libraries(tree, &container::resolve(tree, name)?)?;
    let item = |(library, from)| {
        let item = Item::Copy { from, mode: 0o644 };
        (format!("{LIBRARIES}/{library}"), item)
    };
    Ok(found.into_iter().map(item).collect())
}

/// The base of kube-proxy and flannel: iptables in its nf_tables form, as on the node, with all its
/// extensions, nft for kube-proxy's nftables mode, ipset for its IPVS mode, and conntrack, which
/// kube-proxy calls before 1.32.
pub(super) fn iptables(tree: &Path) -> Result<BTreeMap<String, Item>> {
    let tools = [
        "usr/sbin/conntrack",
        "usr/sbin/ipset",
        "usr/sbin/nft",
        "usr/sbin/xtables-nft-multi",
    ];
    let mut items = with_libraries(tree, &tools)?;
    items.extend(skeleton());
    for name in tools {
        items.insert(name.to_owned(), program(tree, name)?);
    }
    for name in ["iptables", "ip6tables"] {
        for suffix in ["", "-save", "-restore"] {
            items.insert(
                format!("usr/sbin/{name}{suffix}"),
                Item::Link {
                    to: "xtables-nft-multi".to_owned(),
                },
            );
        }
    }
    let extensions = format!("{LIBRARIES}/xtables");
    let folder = tree.join(&extensions);
    for entry in
        std::fs::read_dir(&folder).with_context(|| format!("reading `{}`", folder.display()))?
    {
        let name = entry?.file_name();
        let name = format!(
            "{extensions}/{}",
            name.to_str().context("an extension's name is not UTF-8")?
        );
        // They load libraries that no program does: `statistic`, without which no Service has two
        // endpoints, loads libm.
        items.extend(libraries_of(tree, &name)?);
        items.insert(
            name.clone(),
            Item::Copy {
                from: container::resolve(tree, &name)?,
                mode: 0o644,
            },
        );
    }
    for name in ["etc/protocols", "etc/services"] {
        items.insert(
            name.to_owned(),
            Item::Copy {
                from: container::resolve(tree, name)?,
                mode: 0o644,
            },
        );
    }
    Ok(items)
}

fn program(tree: &Path, name: &str) -> Result<Item> {
    Ok(Item::Copy {
        from: container::resolve(tree, name)?,
        mode: 0o755,
    })
}

/// What the tree's own loader says the program loads, as (name, file).
fn libraries(tree: &Path, program: &Path) -> Result<Vec<(String, PathBuf)>> {
    let folder = tree.join(LIBRARIES);
    let mut command = Command::new(tree.join(LOADER));
    command
        .arg("--library-path")
        .arg(&folder)
        .arg("--list")
        .arg(program);
    let said = process::output(&mut command)?;
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&said).lines() {
        let Some((name, rest)) = line.trim().split_once(" => ") else {
            continue;
        };
        let path = Path::new(rest.split(" (").next().unwrap_or(rest));
        // ldd prints the loader itself with its path.
        if name.contains('/') {
            continue;
        }
        ensure!(
            path.starts_with(&folder),
            "`{}` loads `{name}`, which is not in the tree `{}` but `{rest}`",
            program.display(),
            tree.display()
        );
        found.push((
            name.to_owned(),
            container::resolve(tree, &format!("{LIBRARIES}/{name}"))?,
        ));
    }
    Ok(found)
}
