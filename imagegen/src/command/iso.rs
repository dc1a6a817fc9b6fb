//! `imagegen iso`

use std::path::PathBuf;

use anyhow::Result;
use build_tools::progress::Progress;
use imagegen::cli::{Common, Iso};
use imagegen::iso::{self, Whose};

pub(crate) fn run(common: &Common, args: &Iso) -> Result<()> {
    let folder = super::folder(common, super::NO_IMAGE)?;
    let (whose, name) = match &args.host {
        Some(host) => (Whose::Host(host), host.as_str()),
        None => (Whose::All, "hosts"),
    };
    let out = args.file.clone();
    let out = out.unwrap_or_else(|| PathBuf::from(format!("{name}.iso")));
    iso::write(&folder, whose, &out, &Progress::stderr())?;
    let shown = out.display();
    let of = match whose {
        Whose::Host(host) => format!("the document of the host `{host}`"),
        Whose::All => "the documents of all hosts".to_owned(),
    };
    super::print(&format!(
        "`{shown}` is a boot medium with the node image and {of}, private keys included.\n\
         Attach it as virtual media, or write it to a stick: dd if={shown} of=/dev/sdX bs=4M \
         conv=fsync\n"
    ))
}
