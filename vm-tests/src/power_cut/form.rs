//! Forms a cluster from flashed disks and records what its machines write.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::cut::{Cut, Kept, Random};
use super::disk::{assert_same, write_disk};
use super::recording::{Recorded, Recorder, Recording};
use crate::cluster::testbed::Testbed;
use crate::host::artifacts::Programs;
use crate::host::process;
use crate::machine::disk;
use crate::machine::qemu::{DiskFile, DiskFormat, Drive};
use crate::machine::vm::Vm;

/// The size of the disks, as in other tests.
const SIZE: &str = "12G";

/// Records the first boot of all machines of `testbed`, which are off, until the cluster is
/// healthy, and with `later` another boot of each.
pub fn record(
    testbed: &mut Testbed,
    programs: &Programs,
    folder: &Path,
    later: bool,
) -> Result<Recording> {
    // One of an earlier run.
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing `{}`", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("creating `{}`", folder.display()))?;
    let topology = testbed.output.topology().file_stem().unwrap_or_default();
    let hosts = testbed.cluster.plan.hosts.iter();
    let machines = hosts.map(|host| Recorded {
        name: host.name.clone(),
        role: host.role.as_str().to_owned(),
        ..Recorded::default()
    });
    let mut recording = Recording::new(folder, &topology.to_string_lossy(), machines.collect());
    for at in 0..recording.machines.len() {
        let name = recording.machines[at].name.clone();
        let base = recording.base(&name);
        flash(testbed, programs, &name, &base)?;
        let disk = disk::overlay(
            &testbed.host,
            &testbed.run_dir,
            &format!("{name}-recorded"),
            &base,
            DiskFormat::Raw,
        )?;
        use_disk(testbed, &name, disk)?;
    }
    boot(testbed, &mut recording, 0, |testbed| {
        testbed.wait_ready_and_print()?;
        testbed.assert_healthy()
    })?;
    if later {
        boot(testbed, &mut recording, 1, |testbed| {
            testbed.wait_ready().map(drop)
        })?;
    }
    end(testbed)?;
    for machine in &recording.machines {
        for number in 0..machine.boots {
            make_sparse(&recording.log_path(&machine.name, number))?;
        }
    }
    recording.save()?;
    for machine in &recording.machines {
        let log = recording.log(machine)?;
        let ours = testbed.run_dir.folder().join("replayed.raw");
        let everything = Cut::plain(log.entries().len(), Kept::Everything);
        write_disk(&log, &recording.base(&machine.name), &everything, &ours)?;
        let qemus = &testbed.member(&machine.name)?.disk().path;
        let mut compare = testbed.host.tools().command("bin/qemu-img", None);
        compare.args(["compare", "-f", "raw", "-F", "qcow2"]);
        assert_same(&ours, qemus, &mut compare).with_context(|| machine.name.clone())?;
    }
    Ok(recording)
}

/// Starts all machines and records them until `until` returns. A boot before is ended cleanly.
fn boot(
    testbed: &mut Testbed,
    recording: &mut Recording,
    number: usize,
    until: impl Fn(&Testbed) -> Result<()>,
) -> Result<()> {
    let names: Vec<_> = recording
        .machines
        .iter()
        .map(|one| one.name.clone())
        .collect();
    if number > 0 {
        // The boot before ends as it does in use.
        for name in &names {
            testbed.vm(name)?.power_off()?;
        }
        testbed.running.clear();
    }
    let logs: Vec<_> = names
        .iter()
        .map(|name| recording.log_path(name, number))
        .collect();
    for (name, log) in names.iter().zip(&logs) {
        File::create(log).with_context(|| format!("creating `{}`", log.display()))?;
        testbed.cluster.member_mut(name)?.machine.write_log = Some(log.clone());
    }
    testbed.start_all()?;
    let running = names.iter().map(|name| testbed.vm(name));
    let running: Vec<&Vm> = running.collect::<Result<_>>()?;
    let recorder = Recorder::start(number, &running, logs)?;
    let done = until(testbed);
    let heard = recorder.end()?;
    done?;
    for (machine, marks) in recording.machines.iter_mut().zip(heard.marks) {
        machine.marks.extend(marks);
        machine.boots = number + 1;
    }
    if number == 0 {
        recording.moments = heard.moments;
    }
    Ok(())
}

/// Pauses the recorded machines, whose requests are complete then, and cuts their power.
fn end(testbed: &mut Testbed) -> Result<()> {
    testbed.running.values().try_for_each(|vm| vm.pause())?;
    testbed.running.clear();
    for member in &mut testbed.cluster.members {
        member.machine.write_log = None;
    }
    Ok(())
}

/// QEMU reserves the room of the zeros that a file system begins with: ten gigabytes.
fn make_sparse(log: &Path) -> Result<()> {
    let sparse = log.with_extension("sparse");
    let mut copy = Command::new("cp");
    process::run(copy.arg("--sparse=always").args([log, &sparse]))?;
    fs::rename(&sparse, log).with_context(|| format!("replacing `{}`", log.display()))
}

/// Writes image and seed to a disk as a user does. The log then has both in one order.
fn flash(testbed: &Testbed, programs: &Programs, name: &str, path: &Path) -> Result<()> {
    let mut flash = Command::new(&programs.imagegen);
    flash
        .arg("flash")
        .arg("--output")
        .arg(testbed.output.folder());
    flash.args(["--host", name, "--size", SIZE]).arg(path);
    process::run(&mut flash).map(drop)
}

/// Gives a machine this disk and no other.
fn use_disk(testbed: &mut Testbed, name: &str, disk: DiskFile) -> Result<()> {
    let machine = &mut testbed.cluster.member_mut(name)?.machine;
    let serial = machine.disks[0].serial.clone();
    machine.disks = vec![DiskFile { serial, ..disk }];
    Ok(())
}

/// Boots all machines, which are off, from their disks after `cuts`, and waits until the cluster is
/// healthy.
pub fn boot_after(testbed: &mut Testbed, recording: &Recording, cuts: &[Cut]) -> Result<()> {
    for (machine, cut) in recording.machines.iter().zip(cuts) {
        let path = testbed
            .run_dir
            .folder()
            .join(format!("{}-cut.raw", machine.name));
        let log = recording.log(machine)?;
        write_disk(&log, &recording.base(&machine.name), cut, &path)?;
        let disk = DiskFile {
            path,
            format: DiskFormat::Raw,
            read_only: false,
            serial: machine.name.clone(),
            drive: Drive::default(),
        };
        use_disk(testbed, &machine.name, disk)?;
    }
    testbed.start_all()?;
    testbed.wait_ready_and_print()?;
    testbed.assert_healthy()?;
    testbed.running.clear();
    Ok(())
}

/// The cuts of all machines at one moment of the first boot.
pub fn cuts_at_one_moment(recording: &Recording, random: &mut Random) -> Result<Vec<Cut>> {
    let moment = random.below(recording.moments.len());
    let moment = recording
        .moments
        .get(moment)
        .context("nothing was recorded")?;
    let mut cuts = Vec::new();
    for (machine, bytes) in recording.machines.iter().zip(moment) {
        let at = recording.log(machine)?.position(0, *bytes);
        cuts.push(Cut::choose(at, random));
    }
    Ok(cuts)
}
