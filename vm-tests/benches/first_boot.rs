//! Time from power-on to Ready of one host: Firstlight and the baseline, in turn.
//!
//! The baseline has the same image, kernel, programs and component settings. It does at boot what
//! imagegen does at build time: it imports images into an empty store and lets kubeadm create the
//! certificates.
//!
//! `cargo bench -p vm-tests --bench first_boot`. `FIRSTLIGHT_ROUNDS` is the number of rounds (3).
//! Without KVM a round takes 8 minutes.

use std::time::Duration;

use anyhow::Result;
use firstboot::journal::{KUBEADM_STARTED, field};
use vm_tests::baseline::{self, KubeadmSetup};
use vm_tests::cluster::{Cluster, wait_ready};
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::journal::RecordMatch;
use vm_tests::machine::qemu::DiskFile;
use vm_tests::stats::{ratio, rounds, spread};

fn main() -> Result<()> {
    // `cargo test --benches` runs this program too, without `--bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let rounds = rounds();
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run_dir = RunDir::new("first-boot-bench")?;
    let images = baseline::images_disk(&host, &run_dir)?;
    let (mut firstlight, mut baseline) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let (time, setup) = with_firstlight(&host, &output)?;
        println!("round {round}: Firstlight: {:.1} s", time.as_secs_f64());
        firstlight.push(time);
        let time = with_kubeadm(&host, &output, &images, &setup)?;
        println!("round {round}: baseline: {:.1} s", time.as_secs_f64());
        baseline.push(time);
    }
    println!(
        "power-on to Ready ({:?}, wall clock, {rounds} rounds; median, lowest-highest)",
        host.accel()
    );
    println!("  Firstlight  {}", spread(&firstlight));
    println!("  baseline    {}", spread(&baseline));
    println!("  ratio       {}", ratio(&firstlight, &baseline));
    print_build(&output)?;
    run_dir.passed();
    Ok(())
}

/// Boots with a document. Returns the time and firstboot's configuration of kubeadm.
fn with_firstlight(host: &Host, output: &Output) -> Result<(Duration, KubeadmSetup)> {
    let run_dir = RunDir::new("bench-firstlight")?;
    let cluster = Cluster::new(host, &run_dir, output)?;
    let vm = cluster.first().start(host, &run_dir)?;
    wait_ready(&vm)?;
    let time = vm.age();
    let record = vm.wait_for(
        &RecordMatch::id(KUBEADM_STARTED),
        &[],
        Duration::from_secs(1),
    )?;
    let figure = |name| record.get(name).unwrap_or("?").to_string();
    println!(
        "  firstboot until kubeadm: {} ms of processor time, {} ms of wall time, {} KiB at most",
        figure(field::OWN_MS),
        figure(field::SINCE_START_MS),
        figure(field::PEAK_MEMORY_KIB)
    );
    let setup = KubeadmSetup::of(&vm)?;
    run_dir.passed();
    Ok((time, setup))
}

fn with_kubeadm(
    host: &Host,
    output: &Output,
    images: &DiskFile,
    setup: &KubeadmSetup,
) -> Result<Duration> {
    let run_dir = RunDir::new("bench-baseline")?;
    let mut cluster = Cluster::new(host, &run_dir, output)?;
    baseline::single_host(&mut cluster.members[0], images, setup);
    let vm = cluster.first().start(host, &run_dir)?;
    baseline::wait(&vm, baseline::READY)?;
    let time = vm.age();
    run_dir.passed();
    Ok(time)
}

fn print_build(output: &Output) -> Result<()> {
    let image = std::fs::metadata(output.image())?;
    let blocks = std::os::unix::fs::MetadataExt::blocks(&image) * 512;
    println!(
        "image: {} MiB on disk, {} MiB long",
        blocks >> 20,
        image.len() >> 20
    );
    if let Some(stages) = output.manifest()?.pointer("/image/stages") {
        println!("build time by stage, ms: {stages}");
    }
    Ok(())
}
