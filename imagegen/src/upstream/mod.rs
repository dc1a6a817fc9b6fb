//! Makes a package of what upstream publishes: `imagegen package upstream`.
//!
//! `source` decides which files; `fetch` gets them with curl and compares their checksums;
//! `names` asks kubeadm and `manifests` the manifests which images a cluster needs; `skopeo`
//! pulls them; `assemble` makes the folder. Files and layers are in the cache by digest, so a run
//! after a failure fetches only what the first one lacks. `default-package` builds a package from
//! source instead.

mod assemble;
mod authorities;
mod checksum;
mod curl;
mod fetch;
mod layout;
mod manifests;
mod mirror;
mod names;
mod parallel;
mod skopeo;
mod source;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use build_tools::cache::Cache;
use build_tools::progress::Progress;
use semver::Version;

pub use self::checksum::{Pin, parse_pin};
pub use self::manifests::{Cni, parse_cni};
pub use self::mirror::{Mirror, parse_mirror, parse_registry};
pub use self::source::{Kubernetes, Release, parse_kubernetes, parse_release};

use self::assemble::Parts;
use self::authorities::Authorities;
use self::curl::Curl;
use self::fetch::{Fetched, Fetcher};
use self::manifests::Local;
use self::names::Kubeadm;
use self::parallel::Stop;
use self::skopeo::{Pulled, Skopeo};
use self::source::{Asset, Sources, To};
use crate::cli::Upstream;
use crate::package::Package;
use crate::package::oci::describe::full_name;

/// Fetches all parts and makes the package's folder, an entry of the cache.
pub fn package(wanted: &Upstream, cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let locals = manifests::read(&wanted.cni, &wanted.manifests)?;
    let own = wanted.images.iter().map(|image| full_name(image));
    let own: Vec<String> = own.collect();
    if let Some(image) = own.iter().find(|image| image.contains('@')) {
        bail!("`--image {image}`: name the image by tag; nodes do not find it by digest");
    }
    for mirror in wanted.mirrors.iter().filter(|mirror| mirror.is_plain()) {
        eprintln!(
            "imagegen: warning: `{mirror}` is no https: a third party on the network can replace \
             files and their checksums"
        );
    }
    let authorities = Authorities::new(wanted.ca.as_deref())?;
    let curl = Curl::new(authorities.bundle(), wanted.timeout)?;
    let fetcher = Fetcher::new(cache, curl, &wanted.pins, progress)?;
    let kubernetes = exact(wanted, &fetcher)?;
    manifests::check(&locals, &kubernetes)?;

    let sources = Sources {
        kubernetes: &kubernetes,
        arch: wanted.arch,
        runtime: wanted.runtime,
        flannel: wanted.cni == Cni::Flannel,
        releases: &wanted.releases,
        mirrors: &wanted.mirrors,
    };
    let files = files(&sources, &fetcher)?;
    eprint!("{}", assemble::unproved(&files));
    let kubeadm = kubeadm(&files, &kubernetes)?;
    let names = image_names(&kubeadm, &files, &locals, own, &kubernetes)?;

    let skopeo = Skopeo::new(
        cache,
        wanted.arch,
        &wanted.registries,
        authorities.folder(),
        progress,
    )?;
    let images = images(&names, &skopeo, progress)?;
    let parts = Parts {
        kubernetes: &kubernetes,
        arch: wanted.arch,
        kubeadm: &kubeadm,
        files: &files,
        images: &images,
        manifests: &locals,
    };
    let folder = cache.ensure("packages", &parts.key(), |making| {
        let stage = progress.stage("assembling the package");
        parts.write(making, &skopeo)?;
        stage.done();
        Ok(())
    })?;
    check(wanted, &folder)?;
    Ok(folder)
}

/// The release, which upstream names for `1.34`.
fn exact(wanted: &Upstream, fetcher: &Fetcher<'_>) -> Result<Version> {
    let minor = match &wanted.kubernetes {
        Kubernetes::Exact(version) => return Ok(version.clone()),
        Kubernetes::Minor(minor) => minor,
    };
    let path = format!("release/stable-1.{minor}.txt");
    let url = mirror::url(&wanted.mirrors, "dl.k8s.io", &path);
    let text = fetcher.text(&url)?;
    let version = text.trim().strip_prefix('v').map(Version::parse);
    match version {
        Some(Ok(version)) if version.minor == *minor => Ok(version),
        _ => bail!(
            "`{url}` names no release of Kubernetes 1.{minor}; write it whole: `--kubernetes \
             v1.{minor}.0`"
        ),
    }
}

fn files(sources: &Sources<'_>, fetcher: &Fetcher<'_>) -> Result<Vec<(Asset, Fetched)>> {
    let assets = sources.assets();
    let stage = fetcher.progress.stage("files of upstream");
    let tick = |done: usize| {
        stage.at(format_args!("{done} of {}", assets.len()));
        fetcher.show();
    };
    let work = |asset: &Asset| fetcher.get(&asset.wanted);
    let fetched = parallel::each(&assets, &fetcher.stop, tick, work)?;
    stage.done();
    Ok(assets.into_iter().zip(fetched).collect())
}

fn kubeadm(files: &[(Asset, Fetched)], kubernetes: &Version) -> Result<Kubeadm> {
    let program = files.iter().find(|(asset, _)| asset.to == To::Kubeadm);
    let (_, program) = program.context("no kubeadm for this machine")?;
    names::ask(&program.path, kubernetes)
}

/// Full names of all images of the package.
fn image_names(
    kubeadm: &Kubeadm,
    files: &[(Asset, Fetched)],
    locals: &[Local],
    own: Vec<String>,
    kubernetes: &Version,
) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for (asset, fetched) in files {
        if let To::File { path, .. } = &asset.to
            && path.starts_with("conf/net/")
        {
            let bytes = std::fs::read(&fetched.path)
                .with_context(|| format!("reading `{}`", fetched.path.display()))?;
            texts.push((asset.wanted.url.clone(), bytes));
        }
    }
    for local in locals {
        texts.push((local.name.clone(), local.bytes.clone()));
    }
    let mut names: BTreeSet<String> = own.into_iter().collect();
    names.extend(kubeadm.images.iter().map(|image| full_name(image)));
    let of_manifests = manifests::images(&texts, kubernetes)?;
    names.extend(of_manifests.iter().map(|image| full_name(image)));
    Ok(names.into_iter().collect())
}

fn images(names: &[String], skopeo: &Skopeo<'_>, progress: &Progress) -> Result<Vec<Pulled>> {
    let stage = progress.stage("images of upstream");
    let tick = |done: usize| stage.at(format_args!("{done} of {}", names.len()));
    let pulled = parallel::each(names, &Stop::default(), tick, |name| skopeo.pull(name))?;
    stage.done();
    Ok(pulled)
}

/// The same verdict as that of `imagegen package inspect`.
fn check(wanted: &Upstream, folder: &std::path::Path) -> Result<()> {
    if !wanted.arch.is_baked() {
        eprintln!(
            "imagegen: warning: imagegen builds no image for {0} yet, so the package for {0} is \
             not inspected",
            wanted.arch.kubernetes()
        );
        return Ok(());
    }
    let verdict = Package::read(folder)?.verdict();
    for warning in &verdict.warnings {
        eprintln!("imagegen: warning: {warning}");
    }
    ensure!(
        verdict.errors.is_empty(),
        "no node image can be built of these parts; nothing was written\n{}",
        verdict.errors.join("\n")
    );
    Ok(())
}
