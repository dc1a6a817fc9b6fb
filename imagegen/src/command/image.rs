//! `imagegen image`

use anyhow::Result;
use build_tools::progress::Progress;
use imagegen::cli::Common;
use imagegen::display;
use imagegen::output::Folder;
use imagegen::output::manifest::Manifest;
use imagegen::pipeline::{self, ImageInputs, Input, Outcome};

pub(super) const WHAT: &str = "node image";

pub(crate) fn run(common: &Common) -> Result<()> {
    let request = super::request(common);
    let input = super::read(&request)?;
    let inputs = ImageInputs::check(&request, &input, common.programs.as_deref(), common.qcow2)?;
    let folder = Folder::open(&pipeline::output(&request, &input.plan))?;
    let outcome = pipeline::image(inputs, &input, &folder, &Progress::stderr())?;
    super::report(&outcome, WHAT);
    sizes(&outcome)?;
    pxe(common, &input, &folder)
}

/// The folder `pxe/`, where it is wanted.
pub(super) fn pxe(common: &Common, input: &Input, folder: &Folder) -> Result<()> {
    if common.pxe {
        let programs = common.programs.as_deref();
        let outcome = pipeline::pxe(
            &super::request(common),
            input,
            folder,
            programs,
            &Progress::stderr(),
        )?;
        super::report(&outcome, "files for network boot");
    }
    Ok(())
}

/// Prints the sizes of the image that the manifest records.
pub(super) fn sizes(outcome: &Outcome) -> Result<()> {
    let manifest = Manifest::read(&outcome.folder)?;
    match manifest.and_then(|manifest| manifest.image) {
        Some(report) => super::print(&display::sizes(&report)),
        None => Ok(()),
    }
}
