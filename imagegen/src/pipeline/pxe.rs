//! The folder `pxe/`: what a machine that boots over the network or from a medium is served.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use build_tools::cache::{Cache, Key};
use build_tools::progress::Progress;

use super::image::signing;
use super::{IMAGE, Input, Outcome, Request};
use crate::digest::digest_file;
use crate::image::uki::Keys;
use crate::image::{self, extract, live};
use crate::output::manifest::{self, Manifest};
use crate::output::{Folder, beneath};

/// Its name in the output folder.
pub const PXE: &str = "pxe";

/// Makes the folder of the node image in `folder`, unless it is up to date.
pub fn pxe(
    request: &Request,
    input: &Input,
    folder: &Folder,
    programs: Option<&Path>,
    progress: &Progress,
) -> Result<Outcome> {
    image::check_privilege()?;
    let outcome = |changed| Outcome {
        folder: folder.root().to_owned(),
        hosts: input.plan.hosts.len(),
        changed,
    };
    let programs = image::programs::folder(programs)?;
    let mut manifest = Manifest::read(folder.root())?.unwrap_or_default();
    let of = manifest.outputs.get(IMAGE).cloned();
    let (Some(of), Some(report)) = (of, manifest.image.clone()) else {
        anyhow::bail!(
            "`{}` has no node image; run `imagegen image` first",
            folder.root().display()
        );
    };
    let signing = signing(request, input)?;
    let key = Key::new("pxe", 1)
        .with("image", &of)
        .with("recipe", live::recipe())
        .with("arguments", live::cmdline("", "", &input.plan.image))
        .with("firstboot", digest_file(&programs.join("firstboot"))?)
        .with(
            "signature",
            signing
                .as_ref()
                .map(|signing| signing.recipe().to_vec())
                .unwrap_or_default(),
        )
        .hex();
    if manifest.inputs.get(PXE) == Some(&key) && is_intact(folder, &manifest)? {
        return Ok(outcome(false));
    }
    let cache = Cache::open()?;
    let tools = image::tools_for(&cache, &input.plan.image, progress)?;
    let (release, _) = image::kernel_modules(&tools)?;
    ensure!(
        release == report.kernel_release,
        "the node image has kernel {}, the tools have {release}; make the image again",
        report.kernel_release
    );
    let mut change = folder.change()?;
    let work = change.work_dir()?;
    let out = change.add_large_folder(PXE, 0o755)?;
    let inputs = live::Inputs {
        tools: &tools,
        release: &release,
        plan: &input.plan.image,
        root_hash: &report.root_hash,
        // State is encrypted only on machines that boot from their own disk.
        keys: Keys {
            secure_boot: signing.as_ref(),
            policy: None,
        },
        programs: &programs,
        cache: &cache,
        work: &work,
    };
    let stage = progress.stage("root for the network");
    extract::write(&folder.root().join(IMAGE), &out)?;
    stage.done();
    live::write(&inputs, &out, progress)?;
    manifest.remove_outputs(PXE);
    for name in live::FILES {
        let digest = digest_file(&out.join(name))?;
        manifest.outputs.insert(format!("{PXE}/{name}"), digest);
    }
    manifest.inputs.insert(PXE.to_owned(), key);
    manifest.inputs.insert("pxe-image".to_owned(), of);
    change.add_file(manifest::FILE, &manifest.to_bytes()?, 0o644)?;
    change.commit()?;
    Ok(outcome(true))
}

fn is_intact(folder: &Folder, manifest: &Manifest) -> Result<bool> {
    for name in live::FILES {
        let name = format!("{PXE}/{name}");
        let path = folder.root().join(&name);
        let Some(digest) = manifest.outputs.get(&name) else {
            return Ok(false);
        };
        if beneath::open(folder.root(), Path::new(&name))?.is_none()
            || digest_file(&path)? != *digest
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The manifest of `folder`, if it has a `pxe/` of its node image.
pub fn check(folder: &Path) -> Result<Manifest> {
    let shown = folder.display();
    let manifest = Manifest::read(folder)?.with_context(|| {
        format!(
            "`{shown}` has no `{}`: it is not an output folder of imagegen",
            manifest::FILE
        )
    })?;
    let make = format!("run `imagegen image --pxe -t TOPOLOGY -o {shown}`");
    let made = manifest.inputs.get("pxe-image");
    ensure!(made.is_some(), "`{shown}` has no `{PXE}` folder; {make}");
    ensure!(
        made == manifest.outputs.get(IMAGE),
        "`{shown}/{PXE}` is of an earlier node image; {make}"
    );
    Ok(manifest)
}
