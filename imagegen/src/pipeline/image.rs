//! The node image and its qcow2 form.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result, bail, ensure};
use build_tools::cache::Cache;
use build_tools::process::side_by_side;
use build_tools::progress::Progress;

use super::{HOSTS, IMAGE, Input, Outcome, PKI, QCOW2, Request, SBOM, input, state};
use crate::digest::{digest, digest_file};
use crate::image::{self, ImageReport, ImageRequest, Signing};
use crate::output::manifest::{self, Manifest};
use crate::output::{Folder, beneath};
use crate::package::Package;
use crate::pki::rotation::Rotation;

/// What an image needs besides the topology, checked before the first write.
#[derive(Debug)]
pub struct ImageInputs {
    programs: PathBuf,
    /// `None` for the default package, which is built unless the cache has it.
    package: Option<Rc<Package>>,
    qcow2: bool,
    signing: Option<Signing>,
}

impl ImageInputs {
    /// `programs` is the folder of the image's own programs, by default that of imagegen.
    pub fn check(
        request: &Request,
        input: &Input,
        programs: Option<&Path>,
        qcow2: bool,
    ) -> Result<Self> {
        image::check_privilege()?;
        input.agree()?;
        Ok(Self {
            programs: image::programs::folder(programs)?,
            package: input.open_package()?,
            qcow2,
            signing: signing(request, input)?,
        })
    }
}

/// The key pair that the topology names.
/// The key that signs, if the topology names one.
pub(super) fn signing(request: &Request, input: &Input) -> Result<Option<Signing>> {
    let Some(files) = &input.plan.image.secure_boot else {
        return Ok(None);
    };
    let path = |name: &str| input::beside(request, name);
    let signing = Signing::open(&path(&files.key), &path(&files.certificate));
    signing.context("`image.secure_boot`").map(Some)
}

/// Builds the node image unless it is up to date.
pub fn image(
    inputs: ImageInputs,
    input: &Input,
    folder: &Folder,
    progress: &Progress,
) -> Result<Outcome> {
    let seed = if input.plan.image.seeds {
        log::warn!(
            "`image.seeds: all`: the image holds the documents of all {} hosts with their private \
             keys, and those of the authorities; a copy of it gives full control of the cluster",
            input.plan.hosts.len()
        );
        documents(input, folder)?
    } else {
        Vec::new()
    };
    let policy = state::kept_policy(&input.plan, folder)?;
    let cache = Cache::open()?;
    let package = match inputs.package {
        Some(package) => package,
        None => {
            // Both take minutes the first time.
            let (package, ()) = side_by_side(
                || default_package::default_package(&cache, progress),
                || image::prepare_for(&cache, &input.plan.image, progress),
            );
            Rc::new(Package::open(&package?)?)
        }
    };
    let request = ImageRequest {
        package: &package,
        plan: &input.plan.image,
        programs: &inputs.programs,
        signing: inputs.signing.as_ref(),
        policy: policy.as_ref(),
        seed,
    };
    let build = |out: &Path, work: &Path| image::build(&request, out, work, &cache, progress);
    let convert = |raw: &Path, out: &Path| image::qcow2::convert(raw, out, &cache, progress);
    let convert = inputs.qcow2.then_some(convert);
    let outcome = update(input, folder, &request.key()?, build, convert)?;
    let enrolled = enrolment(request.signing, folder)?;
    Ok(Outcome {
        changed: outcome.changed || enrolled,
        ..outcome
    })
}

/// Writes the files that enrol the key of a signed image; returns whether any changed.
fn enrolment(signing: Option<&Signing>, folder: &Folder) -> Result<bool> {
    let Some(signing) = signing else {
        return Ok(false);
    };
    let mut manifest = Manifest::read(folder.root())?.unwrap_or_default();
    let mut change = folder.change()?;
    let mut changed = false;
    for (name, bytes) in signing.enrolment()? {
        manifest.outputs.insert(name.to_owned(), digest(&bytes));
        changed |= change.add_file(name, &bytes, 0o644)?;
    }
    change.add_file(manifest::FILE, &manifest.to_bytes()?, 0o644)?;
    change.commit()?;
    Ok(changed)
}

/// The documents of all hosts for the seed partition, as `imagegen userdata` wrote them.
fn documents(input: &Input, folder: &Folder) -> Result<Vec<(String, Vec<u8>)>> {
    let shown = folder.root().display();
    let cure = format!(
        "run `imagegen userdata -t TOPOLOGY -o {shown}` first, or imagegen without a command"
    );
    let Some(manifest) = Manifest::read(folder.root())? else {
        bail!("`image.seeds: all` needs the documents, and `{shown}` has none; {cure}");
    };
    ensure!(
        manifest.inputs.get("topology") == Some(&input.digest),
        "the documents in `{shown}` are of another topology than the image; {cure}"
    );
    let mut files = Vec::new();
    let rotation = Rotation::read(&folder.root().join(PKI))?;
    let hosts = input.plan.hosts.iter();
    for host in hosts.filter(|host| !rotation.is_expelled(&host.name)) {
        for file in ["meta-data", "network-config", "user-data"] {
            let name = format!("{HOSTS}/{}/{file}", host.name);
            let bytes = beneath::read(folder.root(), Path::new(&name))?
                .with_context(|| format!("`{shown}/{name}` does not exist; {cure}"))?;
            ensure!(
                manifest.outputs.get(&name) == Some(&digest(&bytes)),
                "`{shown}/{name}` is not the file that imagegen wrote; {cure}"
            );
            files.push((name, bytes));
        }
    }
    Ok(files)
}

/// [`image()`] with its two slow parts as arguments. An image with the same `key` and the digest
/// that the manifest records stays. `build` writes the image to its first argument, may use the
/// folder in its second, and returns the image's bill of materials. `convert`, if the user wants a
/// qcow2 image, converts the first argument to the second. The qcow2 form of an earlier image is
/// removed.
fn update(
    input: &Input,
    folder: &Folder,
    key: &str,
    build: impl FnOnce(&Path, &Path) -> Result<(ImageReport, Vec<u8>)>,
    convert: Option<impl FnOnce(&Path, &Path) -> Result<()>>,
) -> Result<Outcome> {
    let outcome = |changed| Outcome {
        folder: folder.root().to_owned(),
        hosts: input.plan.hosts.len(),
        changed,
    };
    let mut manifest = Manifest::read(folder.root())?.unwrap_or_default();
    let same_key = manifest
        .inputs
        .get("image")
        .is_some_and(|before| before == key);
    let built =
        same_key && is_intact(folder, &manifest, IMAGE)? && is_intact(folder, &manifest, SBOM)?;
    let convert = match convert {
        Some(_) if built && is_intact(folder, &manifest, QCOW2)? => None,
        convert => convert,
    };
    if built && convert.is_none() {
        return Ok(outcome(false));
    }
    let mut change = folder.change()?;
    let image = if built {
        folder.root().join(IMAGE)
    } else {
        let work = change.work_dir()?;
        let image = change.add_large_file(IMAGE);
        let (report, sbom) = build(&image, &work)?;
        manifest.inputs.insert("image".to_owned(), key.to_owned());
        manifest
            .inputs
            .insert("package".to_owned(), report.package.clone());
        manifest.image = Some(report);
        manifest
            .outputs
            .insert(IMAGE.to_owned(), digest_file(&image)?);
        manifest.outputs.insert(SBOM.to_owned(), digest(&sbom));
        change.add_file(SBOM, &sbom, 0o644)?;
        image
    };
    if let Some(convert) = convert {
        let qcow2 = change.add_large_file(QCOW2);
        same_mode(&image, &qcow2)?;
        convert(&image, &qcow2)?;
        manifest
            .outputs
            .insert(QCOW2.to_owned(), digest_file(&qcow2)?);
    } else if manifest.outputs.remove(QCOW2).is_some() {
        change.remove_file(QCOW2);
    }
    change.add_file(manifest::FILE, &manifest.to_bytes()?, 0o644)?;
    change.commit()?;
    Ok(outcome(true))
}

/// Creates an empty file that only those may read who may read `model`: qemu-img keeps it.
fn same_mode(model: &Path, new: &Path) -> Result<()> {
    let doing = || format!("creating `{}`", new.display());
    let mode = fs::metadata(model).with_context(doing)?.mode() & 0o777;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    options.open(new).map(drop).with_context(doing)
}

/// Whether the output `name` exists with the digest in the manifest.
fn is_intact(folder: &Folder, manifest: &Manifest, name: &str) -> Result<bool> {
    let Some(digest) = manifest.outputs.get(name) else {
        return Ok(false);
    };
    if beneath::open(folder.root(), Path::new(name))?.is_none() {
        return Ok(false);
    }
    Ok(digest_file(&folder.root().join(name))? == *digest)
}

#[cfg(test)]
mod tests;
