//! Every image that something names is in the package, by its full name.

use std::collections::BTreeMap;

use super::super::Package;
use super::super::folders::is_below;
use super::super::manifest::ImageUse;
use super::super::oci::describe::{Described, full_name};
use super::super::probe::{Contents, Inside};
use super::{PackedImage, State, Verdict};

/// Images by full name.
#[derive(Debug, Default)]
pub(super) struct Archives {
    pub(super) images: BTreeMap<String, Found>,
    /// Some archive cannot be read, so the missing images are unknown.
    pub(super) broken: bool,
}

#[derive(Debug)]
pub(super) struct Found {
    archive: String,
    digest: String,
    named_by: Vec<String>,
}

pub(super) fn read(package: &Package, verdict: &mut Verdict) -> Archives {
    let mut archives = Archives::default();
    let before = verdict.errors.len();
    let names: Vec<&str> = package
        .names()
        .filter(|name| name.starts_with("images/"))
        .collect();
    let folders = package.image_folders();
    for folder in &folders {
        match package.images_of_folder(folder) {
            Ok(images) => archives.used(&format!("{folder}/"), &images, verdict),
            Err(why) => verdict.errors.push(format!(
                "opening the folder `{folder}` of the package, an unpacked image archive: {why:#}"
            )),
        }
    }
    for name in names {
        if is_below(name, &folders) {
            continue;
        }
        match package.contents_of(name) {
            Some(Contents::Archive(Inside {
                images: Some(Ok(images)),
                ..
            })) => {
                archives.used(name, images, verdict);
            }
            Some(
                Contents::Archive(Inside {
                    images: Some(Err(why)),
                    ..
                })
                | Contents::Broken(why),
            ) => {
                verdict.errors.push(format!(
                    "opening the image archive `{name}` of the package: {why}"
                ));
            }
            _ if is_note(name) => verdict.part(name, State::NotUsed, "no image archive"),
            found => {
                let what = match found {
                    Some(Contents::Html) => "a page of a web server, from a download that failed",
                    Some(Contents::Empty) => "empty",
                    Some(Contents::Archive(_)) => {
                        "an archive without `index.json` (OCI layout) and `manifest.json` (docker \
                         archive)"
                    }
                    _ => "no tar archive, plain or compressed by gzip, zstd or xz",
                };
                verdict.errors.push(format!(
                    "opening the image archive `{name}` of the package: it is {what}; write it by \
                     `docker save` or `ctr images export`, or move it out of `images/`"
                ));
            }
        }
    }
    archives.broken = verdict.errors.len() > before;
    archives
}

fn is_note(name: &str) -> bool {
    let base = name.rsplit('/').next().unwrap_or(name);
    let lower = base.to_lowercase();
    base.starts_with('.')
        || ["readme", "license", "notice", "checksums", "sha256sum"]
            .iter()
            .any(|start| lower.starts_with(start))
        || [
            ".md",
            ".txt",
            ".sha256",
            ".sha256sum",
            ".sha512",
            ".md5",
            ".asc",
            ".sig",
            ".json",
        ]
        .iter()
        .any(|end| lower.ends_with(end))
}

/// Repository and tag.
pub(super) fn split(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, "latest"),
    }
}

impl Archives {
    /// Adds the images of one archive, or of the folder of one.
    fn used(&mut self, name: &str, images: &[Described], verdict: &mut Verdict) {
        let mut count = 0;
        for image in images {
            for reference in &image.references {
                self.add(reference, name, &image.config_digest, verdict);
                count += 1;
            }
        }
        let store = match verdict.container_runtime.is_docker() {
            true => "docker",
            false => "containerd",
        };
        let detail = format!("{count} image(s) in {store}'s store");
        verdict.part(name, State::Used, detail);
    }

    fn add(&mut self, reference: &str, archive: &str, digest: &str, verdict: &mut Verdict) {
        if let Some(before) = self.images.get(reference) {
            if before.digest != digest {
                verdict.errors.push(format!(
                    "`{reference}` is one image in `{}` and another in `{archive}`; keep one",
                    before.archive
                ));
            }
            return;
        }
        let found = Found {
            archive: archive.to_owned(),
            digest: digest.to_owned(),
            named_by: Vec::new(),
        };
        self.images.insert(reference.to_owned(), found);
    }

    /// Full names of images whose repository ends in `name`.
    pub(super) fn called(&self, name: &str) -> Vec<&str> {
        let of = |reference: &&String| split(reference).0.rsplit('/').next() == Some(name);
        self.images.keys().filter(of).map(String::as_str).collect()
    }

    /// Tags of `repository`, the newest last.
    pub(super) fn tags(&self, repository: &str) -> Vec<String> {
        let found = self
            .images
            .keys()
            .filter(|reference| split(reference).0 == repository);
        let mut tags: Vec<String> = found
            .map(|reference| split(reference).1.to_owned())
            .collect();
        let numbers = |tag: &String| -> Vec<u64> {
            tag.split(|c: char| !c.is_ascii_digit())
                .filter_map(|n| n.parse().ok())
                .collect()
        };
        tags.sort_by_key(numbers);
        tags
    }
}

/// Images that manifests name.
pub(super) fn manifests(archives: &Archives, uses: &[ImageUse], verdict: &mut Verdict) {
    for used in uses {
        let (by, image) = (&used.by, &used.image);
        if image.contains('@') {
            verdict.errors.push(format!(
                "{by} asks for `{image}` by digest, and images of a package have names and tags \
                 only; write `name:tag`"
            ));
            continue;
        }
        let full = full_name(image);
        if !archives.images.contains_key(&full) {
            if archives.broken {
                continue;
            }
            let name = split(&full).0.rsplit('/').next().unwrap_or_default();
            let near = archives.called(name);
            let near = if near.is_empty() {
                "add it to `images/`".to_owned()
            } else {
                format!("`images/` has `{}`", near.join("`, `"))
            };
            verdict.errors.push(format!(
                "{by} asks for `{full}`, which is not in the package; {near}"
            ));
        } else if used.always {
            verdict.errors.push(format!(
                "{by} asks a registry for `{image}` at each start (imagePullPolicy Always, or none \
                 with the tag latest); offline nodes have none: write `imagePullPolicy: \
                 IfNotPresent`"
            ));
        }
        verdict.images.push(PackedImage {
            name: full,
            archive: String::new(),
            named_by: vec![by.clone()],
        });
    }
}

/// Joins the images of the package with those who name them.
pub(super) fn list(mut archives: Archives, verdict: &mut Verdict) {
    for used in std::mem::take(&mut verdict.images) {
        if let Some(found) = archives.images.get_mut(&used.name) {
            found.named_by.extend(used.named_by);
        }
    }
    verdict.images = archives
        .images
        .into_iter()
        .map(|(name, found)| PackedImage {
            name,
            archive: found.archive,
            named_by: found.named_by,
        })
        .collect();
}
