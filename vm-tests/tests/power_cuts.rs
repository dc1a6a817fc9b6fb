//! A power cut at every step of every role, with a disk whose cache is volatile.
//!
//! The ignored tests form one cluster each, with a log of all writes of its disks, and judge what
//! is left on each disk after hundreds of cuts. `FIRSTLIGHT_CUTS=500` is the number of cuts of both
//! together, `FIRSTLIGHT_SEED=1` chooses others, and `FIRSTLIGHT_BOOTS=2` is how many of the disks
//! of each test machines boot from. `FIRSTLIGHT_RECORDED=1` takes the recordings of the last run,
//! and `FIRSTLIGHT_CUT=m0:17` makes only that cut of them. `FIRSTLIGHT_SECTOR=512` is for old
//! disks.

use std::fs;

use anyhow::{Context, Result, ensure};
use vm_tests::cluster::testbed::Testbed;
use vm_tests::host::artifacts::Programs;
use vm_tests::host::run_dir::target_dir;
use vm_tests::power_cut::campaign::{self, Settings};
use vm_tests::power_cut::cut::Random;
use vm_tests::power_cut::form;
use vm_tests::power_cut::recording::Recording;
use vm_tests::power_cut::{self, number};

/// The cuts of all machines together, and those of a machine: there are four.
const CUTS: usize = 500;
const MACHINES: usize = 4;

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
    let Some(mut testbed) = Testbed::new(test, topology)? else {
        return Ok(());
    };
    let folder = target_dir().join("vm-tests/power-cuts").join(topology);
    let recording = match number("FIRSTLIGHT_RECORDED", 0)? {
        0 => {
            let programs = Programs::build()?;
            form::record(&mut testbed, &programs, &folder, topology == "one")?
        }
        _ => Recording::open(&folder)?,
    };
    let settings = Settings {
        cuts: number("FIRSTLIGHT_CUTS", CUTS)?.div_ceil(MACHINES),
        seed: u64::try_from(number("FIRSTLIGHT_SEED", 1)?)?,
        unit: power_cut::unit()?,
        only: only()?,
    };
    let work = testbed.run_dir.folder().join("cuts");
    fs::create_dir(&work)?;
    let rows = campaign::run(testbed.host.tools(), &recording, &settings, &work)?;
    println!(
        "| host | role | cuts | lost | cuts of each step |\n| --- | --- | ---: | ---: | --- |"
    );
    for row in &rows {
        print!("{row}");
    }
    let lost: usize = rows.iter().map(|row| row.lost.len()).sum();
    ensure!(
        lost == 0,
        "{lost} cuts lost something; repeat one with FIRSTLIGHT_RECORDED=1 FIRSTLIGHT_CUT=HOST:NUMBER"
    );
    if settings.only.is_none() && settings.cuts > 0 {
        for row in &rows {
            let missed = row.steps.iter().find(|(_, count)| *count == 0);
            ensure!(missed.is_none(), "{}: never cut: {missed:?}", row.machine);
        }
    }

    let mut random = Random::new(settings.seed);
    for boot in 0..number("FIRSTLIGHT_BOOTS", boots)? {
        // Of one machine a cut with an unfinished file, which the next boot must write again.
        let cuts = match &rows[..] {
            [row] if !row.torn.is_empty() => vec![row.torn[random.below(row.torn.len())]],
            _ => form::cuts_at_one_moment(&recording, &mut random)?,
        };
        println!("boot {boot} from {cuts:?}");
        form::boot_after(&mut testbed, &recording, &cuts)
            .with_context(|| format!("booting after {cuts:?}"))?;
    }
    testbed.passed();
    Ok(())
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
