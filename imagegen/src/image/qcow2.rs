//! The node image as a qcow2 file for hypervisors and clouds.

use std::path::Path;

use anyhow::{Context as _, Result};
use build_tools::cache::Cache;
use build_tools::debian_tree::{Spec, Tree};
use build_tools::process;
use build_tools::progress::Progress;

/// Converts the disk image `raw` to `out`; equal disks give equal bytes. No compression, because
/// the root is compressed already.
pub fn convert(raw: &Path, out: &Path, cache: &Cache, progress: &Progress) -> Result<()> {
    // A separate tree, so that only qcow2 images need QEMU's tools.
    let spec = Spec::new("disk formats", "trixie", "extract", &["qemu-utils"]);
    let tree = Tree::ensure(cache, &spec, progress)?;
    let stage = progress.stage("qcow2 image");
    let mut convert = tree.program("qemu-img")?;
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]);
    process::run(convert.arg(raw).arg(out))
        .with_context(|| format!("converting `{}` to qcow2", raw.display()))?;
    stage.done();
    Ok(())
}
