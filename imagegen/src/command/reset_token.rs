//! `imagegen reset-token`

use anyhow::Result;
use imagegen::cli::Common;
use imagegen::output::Folder;
use imagegen::pipeline;

pub(crate) fn run(common: &Common, host: &str) -> Result<()> {
    let request = super::request(common);
    let input = super::read(&request)?;
    let folder = Folder::open(&pipeline::output(&request, &input.plan))?;
    let path = pipeline::reset_token(&input, &folder, host)?;
    super::print(&format!(
        "`{}`: a seed disk with which `{host}` forgets its document.\nAttach it, together with the \
         seed that `{host}` is to take, and restart the machine. It works once.\n",
        path.display()
    ))
}
