//! Clusters that were formed once, for tests that begin with one.
//!
//! Two kinds: master0's disk after a shutdown, for tests of later boots; and all machines of a topology running, each as
//! its memory and its disk at one moment. That is a migration to a file and a copied disk, not a snapshot inside the
//! qcow2: a snapshot cannot be had through an overlay, so every test would copy gigabytes to start.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use build_tools::cache::{Cache, Key};

use crate::artifacts::Output;
use crate::cluster::{Cluster, wait_ready};
use crate::disk;
use crate::host::Host;
use crate::qemu::{DiskFile, DiskFormat};
use crate::run::{Run, target_dir};
use crate::site::Site;
use crate::vm::Vm;

/// Prints everything that firstboot and kubeadm made, by digest; what lives and moves by itself is left out.
pub const STATE: &str = "cd / && find etc/kubernetes etc/firstlight etc/hostname etc/hosts etc/systemd/network -type f \
                         -exec sha256sum {} + 2>/dev/null | sort -k2; sha256sum var/lib/kubelet/config.yaml";

/// Where a kept master0 has that as it was when its first boot ended. Nobody but its user writes there, so that it shows
/// too whether `/etc` keeps what one writes.
pub const FIRST_STATE: &str = "/etc/state-of-first-boot";

/// The formed disk of the first master, a qcow2 over the image.
fn master0(host: &Host, output: &Output) -> Result<PathBuf> {
    host.cache()
        .ensure("formed", &master0_key(output)?, |path| {
            let run = Run::new("forming-master0")?;
            let cluster = Cluster::new(host, &run, output)?;
            let vm = cluster.first().start(host, &run)?;
            wait_ready(&vm)?;
            switch_off(vm)?;
            disk::save(cluster.first().disk(), path)?;
            run.passed();
            Ok(())
        })
}

/// Switches a master0 off that has become Ready, and puts its disk aside for other tests, unless one is there.
pub fn keep_master0(host: &Host, output: &Output, vm: Vm, disk: &DiskFile) -> Result<()> {
    switch_off(vm)?;
    let key = master0_key(output)?;
    let save = |path: &Path| disk::save(disk, path);
    host.cache().ensure("formed", &key, save).map(drop)
}

fn switch_off(vm: Vm) -> Result<()> {
    vm.ok(&format!("({STATE}) >{FIRST_STATE}"))?;
    vm.power_off()
}

fn master0_key(output: &Output) -> Result<Key> {
    let manifest =
        fs::read(output.folder().join("manifest.json")).context("reading the image's manifest")?;
    Ok(Key::new("formed", 2)
        .with("manifest", manifest)
        .with("image", output.image().display().to_string()))
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

/// Puts the whole, running cluster of `site` aside for other tests, unless that was done before; it goes on running.
pub fn keep(site: &Site) -> Result<()> {
    let (cache, key) = place(site)?;
    cache.ensure(&kind(site), &key, |folder| save(site, folder))?;
    forget_others(site, &cache, &key)
}

/// All machines of `site`, which are off, as they were when their cluster had formed. Forms it first where nobody has.
pub fn restore(mut site: Site) -> Result<Site> {
    let (cache, key) = place(&site)?;
    let folder = match cache.get(&kind(&site), &key) {
        Some(folder) => folder,
        None => {
            form(&site)?;
            cache
                .get(&kind(&site), &key)
                .context("the formed cluster that was just kept is gone")?
        }
    };
    for member in &mut site.cluster.members {
        let disk = disk::overlay(
            &site.host,
            &site.run,
            &format!("{}-formed", member.name),
            &saved(&folder, &member.name, "qcow2"),
            DiskFormat::Qcow2,
        )?;
        // The guest knows it by its serial number.
        member.machine.disks[0].path = disk.path;
    }
    for member in &site.cluster.members {
        let state = saved(&folder, &member.name, "state");
        let vm = member.restore(&site.host, &site.run, &state)?;
        site.on.insert(member.name.clone(), vm);
    }
    // Together, as they were stopped.
    site.on.values().try_for_each(|vm| vm.go_on())?;
    Ok(site)
}

fn form(site: &Site) -> Result<()> {
    let host = Host::ready()?;
    let mut forming = Site::with(
        host,
        &format!("forming-{}", kind(site)),
        site.output.clone(),
    )?;
    forming.start_all()?;
    forming.wait_ready()?;
    forming.is_whole()?;
    keep(&forming)?;
    forming.passed();
    Ok(())
}

fn save(site: &Site, folder: &Path) -> Result<()> {
    fs::create_dir(folder).with_context(|| format!("creating `{}`", folder.display()))?;
    site.on.values().try_for_each(|vm| vm.pause())?;
    let written = site.cluster.members.iter().try_for_each(|member| {
        let vm = site.vm(&member.name)?;
        vm.save(&saved(folder, &member.name, "state"))?;
        disk::save(member.disk(), &saved(folder, &member.name, "qcow2"))
    });
    site.on.values().try_for_each(|vm| vm.go_on())?;
    written
}

fn saved(folder: &Path, name: &str, end: &str) -> PathBuf {
    folder.join(format!("{name}.{end}"))
}

fn kind(site: &Site) -> String {
    let name = site.output.topology().file_stem().unwrap_or_default();
    format!("running-{}", name.to_string_lossy())
}

/// In the target folder, where the image is that the disks are laid over; it is large, and worth nothing without it.
fn place(site: &Site) -> Result<(Cache, Key)> {
    let cache = Cache::at(target_dir().join("vm-tests/formed"))?;
    let manifest = fs::read(site.output.folder().join("manifest.json"))
        .context("reading the image's manifest")?;
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .unwrap_or_default();
    let qemu = fs::metadata(site.host.tools().path("usr/bin/qemu-system-x86_64"))?.len();
    let mut key = Key::new("running", 1)
        .with("manifest", manifest)
        .with("image", site.output.image().display().to_string())
        .with("accel", format!("{:?}", site.host.accel()))
        .with("qemu", qemu.to_string())
        // A guest has measured its time stamp counter, and has seen what the processor can do.
        .with("cpu", cpu);
    for member in &site.cluster.members {
        let machine = &member.machine;
        let shape = format!(
            "{} {} {} {}",
            member.name, machine.cpus, machine.memory_mib, machine.pace
        );
        key = key.with("machine", shape);
    }
    Ok((cache, key))
}

/// Gigabytes of a cluster that no test of this build would start from.
fn forget_others(site: &Site, cache: &Cache, key: &Key) -> Result<()> {
    let folder = cache.root().join(kind(site));
    for entry in fs::read_dir(&folder).with_context(|| format!("reading `{}`", folder.display()))? {
        let entry = entry?;
        if entry.file_name().to_str() != Some(key.hex().as_str()) {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("removing `{}`", entry.path().display()))?;
        }
    }
    Ok(())
}
