//! The state partition's file system after a cut: its journal, its consistency, its files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::host::debian_tools::DebianTools;
use crate::host::process::tail;

/// What firstboot, kubeadm and sshd keep, below the mount point of the state partition, `/var`.
const KEPT: [&str; 2] = ["lib/firstlight", KUBELET];
const KUBELET: &str = "lib/kubelet";

/// Where the changes to `/etc` are, below `lib/firstlight`.
const ETC: &str = "etc/upper";

/// The largest file that is read. None of ours comes near.
const LARGE: u64 = 4 << 20;

/// Files of the running machine by their paths, such as `/etc/hostname`.
pub type Tree = BTreeMap<String, Node>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    File(Vec<u8>),
    Link(PathBuf),
}

impl Node {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::File(bytes) => bytes,
            Self::Link(_) => &[],
        }
    }
}

/// Replays the journal and checks the file system. The answer is what e2fsck has found besides.
pub fn recover(tools: &DebianTools, image: &Path) -> Result<Option<String>> {
    // Like a mount: the journal and the list of deleted files that were still open.
    let (status, text) = e2fsck(tools, &["-p"], image)?;
    let repairs = text.lines().any(|line| {
        line.contains("FIXED") || line.contains("check forced") || line.contains("UNEXPECTED")
    });
    if !(0..=1).contains(&status) || repairs {
        return Ok(Some(format!("e2fsck -p: exit status {status}: {text}")));
    }
    let (status, text) = e2fsck(tools, &["-f", "-n"], image)?;
    Ok((status != 0).then(|| format!("e2fsck -f -n: exit status {status}: {text}")))
}

fn e2fsck(tools: &DebianTools, options: &[&str], image: &Path) -> Result<(i32, String)> {
    let mut command = tools.command("sbin/e2fsck", None);
    let found = command.args(options).arg(image).output();
    let found = found.context("starting e2fsck")?;
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    let text = text + &String::from_utf8_lossy(&found.stderr);
    let status = found.status.code().context("e2fsck was killed")?;
    // 8 and more: e2fsck did not work; e2fsck(8).
    ensure!(
        status < 8 || text.contains("superblock") || text.contains("Bad magic"),
        "e2fsck {options:?}: exit status {status}: {}",
        tail(text.trim_end(), 8)
    );
    Ok((status, tail(text.trim_end(), 12)))
}

/// Reads the kept files with debugfs, which needs no mount. `scratch` is an empty folder.
pub fn read(tools: &DebianTools, image: &Path, scratch: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    for folder in KEPT {
        let target = scratch.join(folder);
        let parent = target.parent().unwrap_or(scratch);
        fs::create_dir_all(parent)?;
        if folder == KUBELET {
            // It has the volumes of pods too, so only its files are read.
            fs::create_dir(&target)?;
            let names = names(tools, image, &format!("/{folder}"))?;
            let dumps = names.iter().map(|name| {
                let to = target.join(name);
                format!("dump /{folder}/{name} {}\n", to.display())
            });
            debugfs(tools, image, &dumps.collect::<String>())?;
        } else {
            dump(tools, image, &format!("/{folder}"), parent)?;
        }
        if target.exists() {
            collect(&target, &format!("/var/{folder}"), &mut tree)?;
        }
    }
    Ok(tree)
}

/// Copies a folder of the image into the folder `to`.
pub fn dump(tools: &DebianTools, image: &Path, folder: &str, to: &Path) -> Result<()> {
    debugfs(tools, image, &format!("rdump {folder} {}\n", to.display())).map(drop)
}

/// The names of the files in a folder of the image; none if it does not exist.
pub fn names(tools: &DebianTools, image: &Path, folder: &str) -> Result<Vec<String>> {
    let text = debugfs(tools, image, &format!("ls -p {folder}\n"))?;
    // `/inode/mode/uid/gid/name/size/`; folders have an empty size.
    let name = |line: &str| {
        let parts: Vec<&str> = line.split('/').collect();
        match parts[..] {
            ["", _, mode, _, _, name, _, ""] if mode.starts_with("10") => Some(name.to_owned()),
            _ => None,
        }
    };
    Ok(text.lines().filter_map(name).collect())
}

/// The bytes of one file of the image.
pub fn cat(tools: &DebianTools, image: &Path, path: &str) -> Result<Option<Vec<u8>>> {
    let target = image.with_extension("file");
    // What an earlier call has left.
    if target.exists() {
        fs::remove_file(&target)?;
    }
    debugfs(tools, image, &format!("dump {path} {}\n", target.display()))?;
    // debugfs makes the file before it looks for the other one.
    let folder = path.rsplit_once('/').map_or("/", |(folder, _)| folder);
    let name = path.rsplit('/').next().unwrap_or_default();
    let folder = if folder.is_empty() { "/" } else { folder };
    let exists = names(tools, image, folder)?.iter().any(|one| one == name);
    Ok(exists.then(|| fs::read(&target)).transpose()?)
}

/// Runs debugfs, whose exit status says nothing, and returns what it printed.
fn debugfs(tools: &DebianTools, image: &Path, script: &str) -> Result<String> {
    let path = image.with_extension("debugfs");
    fs::write(&path, script)?;
    let mut command: Command = tools.command("sbin/debugfs", None);
    let found = command.arg("-f").arg(&path).arg(image).output();
    let found = found.context("starting debugfs")?;
    let errors = String::from_utf8_lossy(&found.stderr);
    // What does not exist is what the caller judges.
    let unexpected = errors.lines().find(|line| {
        !line.starts_with("debugfs ") && !line.contains("File not found") && !line.is_empty()
    });
    if let Some(line) = unexpected {
        bail!("debugfs on `{}`: {line}", image.display());
    }
    Ok(String::from_utf8_lossy(&found.stdout).into_owned())
}

/// Adds the files below `folder` of the host, which are below `path` of the machine.
fn collect(folder: &Path, path: &str, tree: &mut Tree) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading `{}`", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let (from, kind) = (entry.path(), entry.file_type()?);
        let to = format!("{path}/{name}");
        if kind.is_dir() {
            match to.strip_prefix("/var/lib/firstlight/") {
                Some(ETC) => collect(&from, "/etc", tree)?,
                Some("opt" | "libexec-kubernetes" | "etc/work") => {}
                _ => collect(&from, &to, tree)?,
            }
        } else if kind.is_symlink() {
            tree.insert(to, Node::Link(fs::read_link(&from)?));
        } else if kind.is_file() && entry.metadata()?.len() <= LARGE {
            tree.insert(to, Node::File(fs::read(&from)?));
        } else {
            ensure!(
                kind.is_file() || kind.is_char_device() || kind.is_fifo() || kind.is_socket(),
                "`{}` is of an unknown kind",
                from.display()
            );
        }
    }
    Ok(())
}
