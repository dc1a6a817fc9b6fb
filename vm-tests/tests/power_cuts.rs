//! A power cut at every step of every role, with a disk whose cache is volatile.
//!
//! The ignored tests form one cluster each, with a log of all writes of its disks, and judge what
//! is left on each disk after hundreds of cuts. `FIRSTLIGHT_CUTS=500` is the number of cuts of both
//! together, `FIRSTLIGHT_SEED=1` chooses others, and `FIRSTLIGHT_BOOTS=2` is how many of the disks
//! of each test machines boot from. `FIRSTLIGHT_RECORDED=target/vm-tests/power-cuts` takes the
//! recordings of the last run, and `FIRSTLIGHT_CUT=m0:17` makes only that cut of them.
//! `FIRSTLIGHT_SECTOR=512` is for old disks.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use vm_tests::cluster::testbed::Testbed;
use vm_tests::host::Host;
use vm_tests::host::artifacts::Programs;
use vm_tests::host::run_dir::target_dir;
use vm_tests::power_cut::campaign::{self, Row, Settings};
use vm_tests::power_cut::cut::Random;
use vm_tests::power_cut::form;
use vm_tests::power_cut::recording::Recording;
use vm_tests::power_cut::{self, number};

/// The cuts of all machines together, and those of a machine: there are four.
const CUTS: usize = 500;
const MACHINES: usize = 4;

/// A file system in memory.
const MEMORY: &str = "/dev/shm";

#[test]
#[ignore = "15 minutes without KVM; run: cargo test -p vm-tests --test power_cuts -- --include-ignored --nocapture"]
fn one_master_loses_nothing_by_a_power_cut() -> Result<()> {
    loses_nothing("power_cuts_one", "one", 1)
}

#[test]
#[ignore = "25 minutes without KVM; run: cargo test -p vm-tests --test power_cuts -- --include-ignored --nocapture"]
fn joining_machines_lose_nothing_by_a_power_cut() -> Result<()> {
    loses_nothing("power_cuts_pair", "pair", 0)
}

fn loses_nothing(test: &str, topology: &str, boots: usize) -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let recorded = std::env::var_os("FIRSTLIGHT_RECORDED").filter(|value| !value.is_empty());
    let folder = match &recorded {
        Some(folder) => PathBuf::from(folder),
        None => target_dir().join("vm-tests/power-cuts"),
    };
    let folder = folder.join(topology);
    let mut testbed = None;
    let recording = match recorded {
        Some(_) => Recording::open(&folder)?,
        None => {
            let testbed = testbed.insert(prepare(test, topology)?);
            form::record(testbed, &Programs::build()?, &folder, topology == "one")?
        }
    };
    let settings = Settings {
        cuts: number("FIRSTLIGHT_CUTS", CUTS)?.div_ceil(MACHINES),
        seed: u64::try_from(number("FIRSTLIGHT_SEED", 1)?)?,
        unit: power_cut::unit()?,
        only: only()?,
    };
    let rows = judge(&host, &recording, &settings)?;

    let mut random = Random::new(settings.seed);
    for boot in 0..number("FIRSTLIGHT_BOOTS", boots)? {
        // Of one machine a cut with an unfinished file, which the next boot must write again.
        let cuts = match &rows[..] {
            [row] if !row.torn.is_empty() => vec![row.torn[random.below(row.torn.len())]],
            _ => form::cuts_at_one_moment(&recording, &mut random)?,
        };
        println!("boot {boot} from {cuts:?}");
        let testbed = match &mut testbed {
            Some(testbed) => testbed,
            None => testbed.insert(prepare(test, topology)?),
        };
        form::boot_after(testbed, &recording, &cuts)
            .with_context(|| format!("booting after {cuts:?}"))?;
    }
    if let Some(testbed) = testbed {
        testbed.passed();
    }
    Ok(())
}

fn prepare(test: &str, topology: &str) -> Result<Testbed> {
    Testbed::new(test, topology)?.context("this host cannot run machines")
}

/// Makes and judges all cuts, and prints the table.
fn judge(host: &Host, recording: &Recording, settings: &Settings) -> Result<Vec<Row>> {
    // e2fsck syncs what it repairs, and that takes seconds on a disk.
    let work =
        tempfile::tempdir_in(MEMORY).or_else(|_| tempfile::tempdir_in(recording.folder()))?;
    let rows = campaign::run(host.tools(), recording, settings, work.path())?;
    println!("| host | role | cuts | lost | cuts of each step |");
    println!("| --- | --- | ---: | ---: | --- |");
    for row in &rows {
        print!("{row}");
    }
    let lost: usize = rows.iter().map(|row| row.lost.len()).sum();
    ensure!(
        lost == 0,
        "{lost} cuts lost something; to repeat one: FIRSTLIGHT_RECORDED={} FIRSTLIGHT_CUT=HOST:NUMBER",
        recording
            .folder()
            .parent()
            .unwrap_or(recording.folder())
            .display()
    );
    if settings.only.is_none() && settings.cuts > 0 {
        for row in &rows {
            let missed = row.steps.iter().find(|(_, count)| *count == 0);
            ensure!(missed.is_none(), "{}: never cut: {missed:?}", row.machine);
        }
    }
    Ok(rows)
}

/// `m0:17`
fn only() -> Result<Option<(String, usize)>> {
    let Ok(text) = std::env::var("FIRSTLIGHT_CUT") else {
        return Ok(None);
    };
    let (name, number) = text
        .split_once(':')
        .context("FIRSTLIGHT_CUT is not HOST:NUMBER")?;
    Ok(Some((name.to_owned(), number.parse()?)))
}
