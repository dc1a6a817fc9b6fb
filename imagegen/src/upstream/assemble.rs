//! The package's folder: files and images of upstream in sealos's layout.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use build_tools::cache::Key;
use flate2::read::GzDecoder;
use semver::Version;
use serde_json::json;

use super::fetch::{Fetched, Proof};
use super::layout;
use super::manifests::Local;
use super::names::Kubeadm;
use super::skopeo::{Pulled, Skopeo};
use super::source::{Asset, To};
use crate::cli::Arch;

/// Raise it when other bytes are made of the same parts.
const REVISION: u32 = 1;

#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) kubernetes: &'a Version,
    pub(super) arch: Arch,
    pub(super) kubeadm: &'a Kubeadm,
    pub(super) files: &'a [(Asset, Fetched)],
    pub(super) images: &'a [Pulled],
    pub(super) manifests: &'a [Local],
}

impl Parts<'_> {
    /// Names all that decides the package's bytes.
    pub(super) fn key(&self) -> Key {
        let mut key = Key::new("upstream-package", REVISION)
            .with("kubernetes", self.kubernetes.to_string())
            .with("arch", self.arch.kubernetes())
            .with("kubeadm.yaml", self.configuration())
            .with("sources", self.sources());
        for image in self.images {
            key = key.with(&image.name, &image.manifest.digest);
        }
        for local in self.manifests {
            key = key.with(&local.name, &local.bytes);
        }
        key
    }

    /// Makes the folder at `target`, which does not exist.
    pub(super) fn write(&self, target: &Path, skopeo: &Skopeo<'_>) -> Result<()> {
        for folder in ["bin", "conf/net", "images"] {
            folder_at(&target.join(folder))?;
        }
        for (asset, fetched) in self.files {
            match &asset.to {
                To::Kubeadm => {}
                To::File { path, executable } => {
                    let mode = if *executable { 0o755 } else { 0o644 };
                    install(&fetched.path, &target.join(path), mode)?;
                }
                To::Unpacked(name) => {
                    unpack(&fetched.path, name, &target.join("bin").join(name))
                        .with_context(|| format!("unpacking `{}`", asset.wanted.url))?;
                }
            }
        }
        let images = target.join("images/images.tar");
        layout::write(&images, self.images, self.arch.kubernetes(), skopeo)?;
        for local in self.manifests {
            write(&target.join(&local.name), &local.bytes)?;
        }
        write(
            &target.join("conf/kubeadm.yaml"),
            self.configuration().as_bytes(),
        )?;
        let metadata = json!({
            "k8sVersion": format!("v{}", self.kubernetes),
            "arch": self.arch.kubernetes(),
        });
        write(&target.join("Metadata"), format!("{metadata}\n").as_bytes())?;
        write(&target.join("sources.json"), self.sources().as_bytes())
    }

    fn configuration(&self) -> String {
        default_package::kubeadm_configuration(
            u32::try_from(self.kubernetes.minor).unwrap_or(u32::MAX),
            &format!("v{}", self.kubernetes),
            &self.kubeadm.repository,
            &self.kubeadm.etcd_tag,
        )
    }

    /// Where each part comes from, for those who review the package.
    fn sources(&self) -> String {
        let files = self
            .files
            .iter()
            .filter(|(asset, _)| asset.to != To::Kubeadm);
        let files: Vec<_> = files
            .map(|(asset, fetched)| {
                json!({
                    "url": asset.wanted.url,
                    "sha256": fetched.sha256,
                    "compared_with": match fetched.proof {
                        Proof::Checksums => asset.wanted.checksums.as_deref(),
                        Proof::Pin => Some("--sha256"),
                        Proof::None => None,
                    },
                })
            })
            .collect();
        let images: Vec<_> = self
            .images
            .iter()
            .map(|image| json!({"name": image.name, "digest": image.digest}))
            .collect();
        let mut text = format!("{:#}", json!({"files": files, "images": images}));
        text.push('\n');
        text
    }
}

/// Warnings about files that only TLS protects.
pub(super) fn unproved(files: &[(Asset, Fetched)]) -> String {
    let mut text = String::new();
    for (asset, fetched) in files {
        if fetched.proof == Proof::None {
            let name = asset.wanted.name();
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "imagegen: warning: upstream publishes no checksum of `{}`; compare the SHA-256 \
                 with another source, and repeat it with `--sha256 {name}={}`",
                asset.wanted.url, fetched.sha256
            );
        }
    }
    text
}

fn folder_at(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("creating `{}`", path.display()))
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    if let Some(folder) = to.parent() {
        folder_at(folder)?;
    }
    fs::copy(from, to)
        .and_then(|_| fs::set_permissions(to, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("copying `{}` to `{}`", from.display(), to.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("writing `{}`", path.display()))
}

/// Unpacks the program `name` of an archive.
fn unpack(archive: &Path, name: &str, to: &Path) -> Result<()> {
    let file = File::open(archive).with_context(|| format!("opening `{}`", archive.display()))?;
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let is_it = entry.path()?.file_name().is_some_and(|file| file == name);
        if is_it && entry.header().entry_type().is_file() {
            let mut out =
                File::create(to).with_context(|| format!("creating `{}`", to.display()))?;
            io::copy(&mut entry, &mut out)
                .with_context(|| format!("writing `{}`", to.display()))?;
            return fs::set_permissions(to, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("changing the mode of `{}`", to.display()));
        }
    }
    bail!("the archive has no program `{name}`; take another `--release {name}=VERSION`")
}
