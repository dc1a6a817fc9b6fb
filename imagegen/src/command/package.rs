//! `imagegen package`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use build_tools::cache::Cache;
use build_tools::progress::Progress;
use imagegen::cli::Common;
use imagegen::package::Package;

/// Lists the package of `--package`; without it, builds a default package at `--output`.
pub(crate) fn run(common: &Common, kubernetes: Option<&str>) -> Result<()> {
    if let Some(path) = &common.package {
        return list(path);
    }
    let default = || PathBuf::from("kube.tar.zst");
    let output = common.output.clone().unwrap_or_else(default);
    default_package::write_default(kubernetes, &Cache::open()?, &output, &Progress::stderr())
}

fn list(path: &Path) -> Result<()> {
    let package = Package::open(path)?;
    let mut text = format!(
        "package     {}\nkubernetes  {}\ndigest      {}\nsize        {} MiB\n",
        path.display(),
        package.kubernetes_version()?,
        package.digest(),
        package.size() >> 20
    );
    for name in package.names() {
        writeln!(text, "  {name}")?;
    }
    super::print(&text)
}
