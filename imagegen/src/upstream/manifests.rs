//! Manifests that a person adds, and the images that they name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use semver::Version;

use crate::package::Manifests;

/// A manifest and its place in the package.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    path: PathBuf,
}

/// The pod network of the package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cni {
    Flannel,
    /// None: another way brings one.
    None,
    File(PathBuf),
}

/// `flannel`, `none` or a file.
pub fn parse_cni(text: &str) -> Result<Cni, String> {
    Ok(match text {
        "" => return Err("write `flannel`, `none` or the path of a manifest".to_owned()),
        "flannel" => Cni::Flannel,
        "none" => Cni::None,
        path => Cni::File(PathBuf::from(path)),
    })
}

/// Reads the files; two must not have one name, because the package has one folder for them.
pub(super) fn read(cni: &Cni, more: &[PathBuf]) -> Result<Vec<Local>> {
    let own = match cni {
        Cni::File(path) => Some(path),
        Cni::Flannel | Cni::None => None,
    };
    let mut locals: Vec<Local> = Vec::new();
    for path in own.into_iter().chain(more) {
        let local = read_one(path)?;
        if let Some(other) = locals.iter().find(|other| other.name == local.name) {
            bail!(
                "`{}` and `{}` have the same file name; rename one",
                other.path.display(),
                path.display()
            );
        }
        ensure!(
            *cni != Cni::Flannel || local.name != "conf/net/kube-flannel.yml",
            "`{}` has the name of flannel's own manifest; rename it, or give it with `--cni`",
            path.display()
        );
        locals.push(local);
    }
    Ok(locals)
}

fn read_one(path: &Path) -> Result<Local> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.filter(|name| {
        Path::new(name)
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml")
    });
    let name = name.with_context(|| {
        format!(
            "`{}` is no manifest; its name must end in .yaml or .yml",
            path.display()
        )
    })?;
    Ok(Local {
        name: format!("conf/net/{name}"),
        bytes: fs::read(path).with_context(|| format!("reading `{}`", path.display()))?,
        path: path.to_owned(),
    })
}

/// The images of manifests, which are given with their names for messages.
pub(super) fn images(files: &[(String, Vec<u8>)], kubernetes: &Version) -> Result<Vec<String>> {
    let found = Manifests::read(files, Some(kubernetes));
    if !found.errors.is_empty() {
        bail!("{}", found.errors.join("\n"));
    }
    let mut names = Vec::new();
    for used in found.images {
        ensure!(
            !used.image.contains('@'),
            "{}: the image `{}` is named by digest, which a node without a registry does not find; \
             name it by tag",
            used.by,
            used.image
        );
        ensure!(
            !used.always,
            "{}: the kubelet pulls the image `{}` although the node has it; set `imagePullPolicy: \
             IfNotPresent`",
            used.by,
            used.image
        );
        names.push(used.image);
    }
    Ok(names)
}

/// Checks manifests before anything is fetched.
pub(super) fn check(locals: &[Local], kubernetes: &Version) -> Result<()> {
    let files: Vec<_> = locals
        .iter()
        .map(|local| (local.path.display().to_string(), local.bytes.clone()))
        .collect();
    images(&files, kubernetes).map(drop)
}
