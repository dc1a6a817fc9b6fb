//! `imagegen serve`

use anyhow::Result;
use imagegen::cli::{Common, Serve};
use imagegen::serve;

pub(crate) fn run(common: &Common, args: &Serve) -> Result<()> {
    let folder = match &args.dir {
        Some(dir) => dir.clone(),
        None => super::folder(common, super::NO_IMAGE)?,
    };
    serve::run(&folder, args)
}
