//! Power-on to Ready: ours against the same machine the usual way, both in one run.
//!
//! The usual way has the same image, kernel, binaries and component settings; it only does at boot what imagegen does
//! at build time: images are imported into an empty store, and kubeadm makes the certificates.
//!
//! `cargo bench -p vm-tests` ; `FIRSTLIGHT_ROUNDS` sets the number of rounds (3).

use std::time::Duration;

use anyhow::Result;
use firstboot::journal::{KUBEADM_STARTED, field};
use vm_tests::artifacts::{Output, Programs, topology};
use vm_tests::cluster::{Cluster, wait_ready};
use vm_tests::host::Host;
use vm_tests::journal::Want;
use vm_tests::qemu::DiskFile;
use vm_tests::run::Run;
use vm_tests::usual::{self, Recipe, ratio, rounds, spread};

fn main() -> Result<()> {
    // `cargo test --benches` runs this too, without `--bench`; a benchmark is no test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let rounds = rounds();
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run = Run::new("first-boot-bench")?;
    let images = usual::images_disk(&host, &run)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let (time, recipe) = our_way(&host, &output)?;
        println!("round {round}: ours {:.1} s", time.as_secs_f64());
        ours.push(time);
        let time = usual_way(&host, &output, &images, &recipe)?;
        println!("round {round}: the usual way {:.1} s", time.as_secs_f64());
        theirs.push(time);
    }
    println!(
        "power-on to Ready ({:?}, wall clock, {rounds} rounds; median, lowest-highest)",
        host.accel()
    );
    println!("  ours           {}", spread(&ours));
    println!("  the usual way  {}", spread(&theirs));
    println!("  ratio          {}", ratio(&ours, &theirs));
    print_build(&output)?;
    run.passed();
    Ok(())
}

/// Boots with a document; returns the time and what firstboot ran kubeadm with.
fn our_way(host: &Host, output: &Output) -> Result<(Duration, Recipe)> {
    let run = Run::new("bench-ours")?;
    let cluster = Cluster::new(host, &run, output)?;
    let vm = cluster.first().start(host, &run)?;
    wait_ready(&vm)?;
    let time = vm.age();
    let own = vm.wait_for(&Want::id(KUBEADM_STARTED), &[], Duration::from_secs(1))?;
    let figure = |name| own.get(name).unwrap_or("?").to_string();
    println!(
        "  firstboot until kubeadm: {} ms of processor, {} ms of time, {} KiB at most",
        figure(field::OWN_MS),
        figure(field::SINCE_START_MS),
        figure(field::PEAK_MEMORY_KIB)
    );
    let recipe = Recipe::of(&vm)?;
    run.passed();
    Ok((time, recipe))
}

fn usual_way(host: &Host, output: &Output, images: &DiskFile, recipe: &Recipe) -> Result<Duration> {
    let run = Run::new("bench-usual")?;
    let mut cluster = Cluster::new(host, &run, output)?;
    usual::alone(&mut cluster.members[0], images, recipe);
    let vm = cluster.first().start(host, &run)?;
    usual::wait(&vm, usual::READY)?;
    let time = vm.age();
    run.passed();
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
        println!("bake time by stage, ms: {stages}");
    }
    Ok(())
}
