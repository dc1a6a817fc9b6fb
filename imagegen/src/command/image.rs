//! `imagegen image`

use anyhow::Result;
use build_tools::progress::Progress;
use imagegen::cli::Common;
use imagegen::output::Folder;
use imagegen::pipeline::{self, ImageInputs, Input};

pub(super) const WHAT: &str = "node image";

pub(crate) fn run(common: &Common) -> Result<()> {
    let request = super::request(common);
    let input = super::read(&request)?;
    let inputs = ImageInputs::check(&request, &input, common.programs.as_deref(), common.qcow2)?;
    let folder = Folder::open(&pipeline::output(&request, &input.plan))?;
    let outcome = pipeline::image(inputs, &input, &folder, &Progress::stderr())?;
    super::report(&outcome, WHAT);
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
