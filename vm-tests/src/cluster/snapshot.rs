//! Saved clusters, from which tests start that need a formed one.
//!
//! There are two kinds: the disk of master0 after a shutdown, for tests of later boots, and all
//! machines of a topology while they run, with memory and disk. The second kind is a migration to a
//! file with a copy of the disk. A snapshot inside the qcow2 cannot be read through an overlay, so
//! every test would have to copy gigabytes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use build_tools::cache::{Cache, Key};

use crate::cluster::testbed::Testbed;
use crate::cluster::{Cluster, wait_ready};
use crate::host::Host;
use crate::host::artifacts::Output;
use crate::host::run_dir::{RunDir, target_dir};
use crate::machine::disk;
use crate::machine::qemu::{DiskFile, DiskFormat};
use crate::machine::vm::Vm;

/// A script for the guest that prints digests of all files that firstboot and kubeadm have written.
pub const STATE_DIGEST: &str = include_str!("state_digest.sh");

/// The output of [`STATE_DIGEST`] after the first boot, on the disk of a saved master0. It is in
/// `/etc` to show as well that `/etc` is persistent.
pub const FIRST_BOOT_DIGEST: &str = "/etc/state-of-first-boot";

/// The name of saved disks in the cache. A new name would orphan gigabytes in existing caches.
const MASTER0_KIND: &str = "formed";

/// The saved disk of master0, a qcow2 over the image.
fn saved_master0(host: &Host, output: &Output) -> Result<PathBuf> {
    host.cache()
        .ensure(MASTER0_KIND, &master0_key(output)?, |path| {
            let run_dir = RunDir::new("saving-master0")?;
            let cluster = Cluster::new(host, &run_dir, output)?;
            let vm = cluster.first().start(host, &run_dir)?;
            wait_ready(&vm)?;
            switch_off(vm)?;
            disk::save(cluster.first().disk(), path)?;
            run_dir.passed();
            Ok(())
        })
}

/// Shuts a Ready master0 down and saves its disk for other tests, unless one is saved already.
pub fn save_master0(host: &Host, output: &Output, vm: Vm, disk: &DiskFile) -> Result<()> {
    switch_off(vm)?;
    let key = master0_key(output)?;
    let save = |path: &Path| disk::save(disk, path);
    host.cache().ensure(MASTER0_KIND, &key, save).map(drop)
}

/// Writes [`FIRST_BOOT_DIGEST`] and shuts the machine down.
fn switch_off(vm: Vm) -> Result<()> {
    vm.shell(&format!("(\n{STATE_DIGEST}\n) >{FIRST_BOOT_DIGEST}"))?;
    vm.power_off()
}

fn master0_key(output: &Output) -> Result<Key> {
    let manifest =
        fs::read(output.folder().join("manifest.json")).context("reading the image's manifest")?;
    Ok(Key::new(MASTER0_KIND, 2)
        .with("manifest", manifest)
        .with("image", output.image().display().to_string()))
}

/// A cluster of one host, whose disk is that of a saved master0. Forms it first if none is saved.
pub fn restored_master0(host: &Host, run_dir: &RunDir, output: &Output) -> Result<Cluster> {
    let saved = saved_master0(host, output)?;
    let mut cluster = Cluster::new(host, run_dir, output)?;
    let first = &mut cluster.members[0];
    first.machine.disks[0] = disk::overlay(
        host,
        run_dir,
        &format!("{}-saved", first.name),
        &saved,
        DiskFormat::Qcow2,
    )?;
    Ok(cluster)
}

/// A running cluster, restored from a saved one. Forms it first if none is saved. Returns `None` as
/// [`Testbed::new`] does.
pub fn restored(test: &str, topology_name: &str) -> Result<Option<Testbed>> {
    let testbed = Testbed::new(test, topology_name)?;
    testbed.map(restore).transpose()
}

/// As [`restored`], of an existing image.
pub fn restored_output(host: Host, test: &str, output: Output) -> Result<Testbed> {
    restore(Testbed::with(host, test, output)?)
}

/// Saves the running cluster for other tests, unless one is saved already. The cluster keeps
/// running.
pub fn save(testbed: &Testbed) -> Result<()> {
    let (cache, key) = cache_and_key(testbed)?;
    cache.ensure(&kind(testbed), &key, |folder| write(testbed, folder))?;
    remove_others(testbed, &cache, &key)
}

/// Restores all machines of `testbed`, which are off.
fn restore(mut testbed: Testbed) -> Result<Testbed> {
    let (cache, key) = cache_and_key(&testbed)?;
    let folder = match cache.get(&kind(&testbed), &key) {
        Some(folder) => folder,
        None => {
            form(&testbed)?;
            cache
                .get(&kind(&testbed), &key)
                .context("the cluster that was just saved is gone")?
        }
    };
    for member in &mut testbed.cluster.members {
        let disk = disk::overlay(
            &testbed.host,
            &testbed.run_dir,
            &format!("{}-saved", member.name),
            &saved(&folder, &member.name, "qcow2"),
            DiskFormat::Qcow2,
        )?;
        // The guest identifies the disk by its serial number, which stays the same.
        member.machine.disks[0].path = disk.path;
    }
    for member in &testbed.cluster.members {
        let state = saved(&folder, &member.name, "state");
        let vm = member.restore(&testbed.host, &testbed.run_dir, &state)?;
        testbed.running.insert(member.name.clone(), vm);
    }
    // All at the same time, as they were paused.
    testbed.running.values().try_for_each(|vm| vm.resume())?;
    Ok(testbed)
}

/// Forms the cluster of `testbed` in a testbed of its own, and saves it.
fn form(testbed: &Testbed) -> Result<()> {
    let host = Host::ready()?;
    let mut forming = Testbed::with(
        host,
        &format!("saving-{}", kind(testbed)),
        testbed.output.clone(),
    )?;
    forming.start_all()?;
    forming.wait_ready()?;
    forming.assert_healthy()?;
    save(&forming)?;
    forming.passed();
    Ok(())
}

/// Writes memory and disk of all machines to the new `folder`. They are paused meanwhile, all at
/// the same time, so that the saved states match.
fn write(testbed: &Testbed, folder: &Path) -> Result<()> {
    fs::create_dir(folder).with_context(|| format!("creating `{}`", folder.display()))?;
    testbed.running.values().try_for_each(|vm| vm.pause())?;
    let written = testbed.cluster.members.iter().try_for_each(|member| {
        let vm = testbed.vm(&member.name)?;
        vm.save(&saved(folder, &member.name, "state"))?;
        disk::save(member.disk(), &saved(folder, &member.name, "qcow2"))
    });
    testbed.running.values().try_for_each(|vm| vm.resume())?;
    written
}

/// The file of a machine in the folder of a saved cluster.
fn saved(folder: &Path, name: &str, end: &str) -> PathBuf {
    folder.join(format!("{name}.{end}"))
}

/// The name of the topology's saved clusters in the cache.
fn kind(testbed: &Testbed) -> String {
    let name = testbed.output.topology().file_stem().unwrap_or_default();
    format!("running-{}", name.to_string_lossy())
}

/// Saved clusters are in the target folder beside the image, which their overlays need.
fn cache_and_key(testbed: &Testbed) -> Result<(Cache, Key)> {
    let cache = Cache::at(target_dir().join("vm-tests/formed"))?;
    let manifest = fs::read(testbed.output.folder().join("manifest.json"))
        .context("reading the image's manifest")?;
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .unwrap_or_default();
    let qemu = fs::metadata(testbed.host.tools().path("usr/bin/qemu-system-x86_64"))?.len();
    let mut key = Key::new("running", 1)
        .with("manifest", manifest)
        .with("image", testbed.output.image().display().to_string())
        .with("accel", format!("{:?}", testbed.host.accel()))
        .with("qemu", qemu.to_string())
        // The guest has read the features of the processor and measured its time stamp counter.
        .with("cpu", cpu);
    for member in &testbed.cluster.members {
        let machine = &member.machine;
        let shape = format!(
            "{} {} {} {}",
            member.name, machine.cpus, machine.memory_mib, machine.time_scale
        );
        key = key.with("machine", shape);
    }
    Ok((cache, key))
}

/// Removes saved clusters of other builds, which are gigabytes that no test can use.
fn remove_others(testbed: &Testbed, cache: &Cache, key: &Key) -> Result<()> {
    let folder = cache.root().join(kind(testbed));
    for entry in fs::read_dir(&folder).with_context(|| format!("reading `{}`", folder.display()))? {
        let entry = entry?;
        if entry.file_name().to_str() != Some(key.hex().as_str()) {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("removing `{}`", entry.path().display()))?;
        }
    }
    Ok(())
}
