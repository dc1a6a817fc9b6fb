//! `imagegen userdata`

use anyhow::Result;
use imagegen::cli::Common;
use imagegen::display;
use imagegen::output::Folder;
use imagegen::pipeline;

pub(super) const WHAT: &str = "documents, seeds and admin.conf";

pub(crate) fn run(common: &Common) -> Result<()> {
    let request = super::request(common);
    let input = super::read(&request)?;
    let folder = Folder::open(&pipeline::output(&request, &input.plan))?;
    let outcome = pipeline::userdata(&input, &folder)?;
    super::report(&outcome, WHAT);
    super::print(&display::passphrases(&input.plan, &outcome.folder))
}
