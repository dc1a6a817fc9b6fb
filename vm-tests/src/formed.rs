//! A master0 that has become ready and was shut down: the disk that tests of later boots start from.
//!
//! Made once for an image and its document; whoever gets it works on an overlay.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use imagegen::cache::Key;

use crate::artifacts::Output;
use crate::cluster::{Cluster, wait_ready};
use crate::disk;
use crate::host::Host;
use crate::qemu::DiskFormat;
use crate::run::Run;

/// The formed disk of the first master, a qcow2 over the image.
pub fn master0(host: &Host, output: &Output) -> Result<PathBuf> {
    let manifest =
        fs::read(output.folder().join("manifest.json")).context("reading the image's manifest")?;
    let key = Key::new("formed", 1)
        .with("manifest", manifest)
        .with("image", output.image().display().to_string());
    host.cache().ensure("formed", &key, |path| {
        let run = Run::new("forming-master0")?;
        let cluster = Cluster::new(host, &run, output)?;
        let vm = cluster.first().start(host, &run)?;
        wait_ready(&vm)?;
        vm.power_off()?;
        drop(vm);
        disk::save(cluster.first().disk(), path)?;
        run.passed();
        Ok(())
    })
}

/// A cluster of one whose master0 was formed before.
pub fn cluster(host: &Host, run: &Run, output: &Output) -> Result<Cluster> {
    let formed = master0(host, output)?;
    let mut cluster = Cluster::new(host, run, output)?;
    let first = &mut cluster.members[0];
    first.machine.disks[0] = disk::overlay(
        host,
        run,
        &format!("{}-formed", first.name),
        &formed,
        DiskFormat::Qcow2,
    )?;
    Ok(cluster)
}
