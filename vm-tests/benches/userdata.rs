//! What reading a seed and applying it before the network costs: Debian's cloud-init and firstboot,
//! in turn, on the same seed, on this host and in a machine.
//!
//! cloud-init is `ds-identify`, which a generator runs in every boot, and `cloud-init init
//! --local`, which ends where the network begins: users, files and all else come in its later
//! stages. firstboot does all of its document that needs no running system. Each run begins with a
//! fresh Debian, and counts the processor time of all its processes. On the host the seed is a
//! folder. In the machine it is a disk, and the machine's clock counts instructions of programs
//! and kernel, one for a nanosecond.
//!
//! `cargo bench -p vm-tests --bench userdata`. `FIRSTLIGHT_ROUNDS` is the number of rounds (3).
//! Needs root.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use vm_tests::host::Host;
use vm_tests::host::client_tools::{ClientTools, Iso};
use vm_tests::host::run_dir::RunDir;
use vm_tests::initrd::userdata_guest::{self, Run};
use vm_tests::stats::{median, ratio, rounds};

/// Bounds of firstboot.
const MOST_TIME: Duration = Duration::from_millis(100);
const MOST_MEMORY_KIB: u64 = 16 << 10;

/// What each program writes at least, so that a run that did nothing does not count.
const WRITES: [(&str, &str); 2] = [
    ("cloud-init", "etc/netplan/50-cloud-init.yaml"),
    ("firstboot", "etc/example/file-19"),
];

fn main() -> Result<()> {
    // `cargo test --benches` runs this program too, without `--bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let rounds = rounds();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/benchmark-seed");
    let version = userdata_guest::version(&host)?;
    println!("cloud-init {version} and firstboot, {rounds} rounds, median (lowest-highest)");
    let runs = userdata_guest::on_host(&host, &folder, rounds)?;
    report("on the host, ms of processor time", &runs, rounds)?;

    let run_dir = RunDir::new("userdata-bench")?;
    let seed = run_dir.folder().join("seed.iso");
    ClientTools::ensure(&host)?.iso(&folder, "cidata", Iso::RockRidge, &seed)?;
    let runs = userdata_guest::in_machine(&host, &run_dir, &seed, rounds)?;
    report("in a machine, millions of instructions", &runs, rounds)?;
    run_dir.passed();
    Ok(())
}

/// Prints the figures, and fails if firstboot misses a bound.
fn report(what: &str, runs: &[Run], rounds: usize) -> Result<()> {
    println!("{what}:");
    let mut times = Vec::new();
    for (program, path) in WRITES {
        let of = |run: &&Run| run.program == program;
        let runs: Vec<&Run> = runs.iter().filter(of).collect();
        ensure!(runs.len() == rounds, "{program}: {} rounds", runs.len());
        for run in &runs {
            let wrote = run.files.iter().any(|(name, _)| name == path);
            ensure!(wrote, "{program} wrote no `{path}`: {:?}", run.files);
        }
        let took: Vec<_> = runs.iter().map(|run| run.processor()).collect();
        let memory = runs.iter().map(|run| run.peak_memory_kib);
        let peak = memory.max().unwrap_or_default();
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "  {program:10}  {:.1} ({:.1}-{:.1}), at most {peak} KiB in one process, {} files",
            millis(median(&took)),
            millis(took.iter().min().copied().unwrap_or_default()),
            millis(took.iter().max().copied().unwrap_or_default()),
            runs[0].files.len(),
        );
        if program == "firstboot" {
            ensure!(median(&took) <= MOST_TIME, "more than {MOST_TIME:?}");
            ensure!(peak <= MOST_MEMORY_KIB, "more than {MOST_MEMORY_KIB} KiB");
        }
        times.push(took);
    }
    println!("  ratio       {}", ratio(&times[1], &times[0]));
    Ok(())
}
