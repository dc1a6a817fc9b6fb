//! Without a command: documents and the node image.

use anyhow::Result;
use build_tools::progress::Progress;
use imagegen::cli::Common;
use imagegen::display;
use imagegen::output::Folder;
use imagegen::pipeline::{self, ImageInputs};

pub(crate) fn run(common: &Common) -> Result<()> {
    let request = super::request(common);
    let input = super::read(&request)?;
    let inputs = ImageInputs::check(&request, &input, common.programs.as_deref(), common.qcow2)?;
    let folder = Folder::open(&pipeline::output(&request, &input.plan))?;
    super::report(&pipeline::userdata(&input, &folder)?, super::userdata::WHAT);
    let outcome = pipeline::image(inputs, &input, &folder, &Progress::stderr())?;
    super::report(&outcome, super::image::WHAT);
    super::image::sizes(&outcome)?;
    super::image::pxe(common, &input, &folder)?;
    let steps = display::next_steps(&input.plan, &outcome.folder, &super::program());
    super::print(&steps)
}
