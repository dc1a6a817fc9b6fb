//! Power-on of three masters to all Ready: ours, against the same machines joined one after another the usual way.
//!
//! And against master0 alone plus one join, which is what no number of joining masters may exceed by half. All machines
//! of all ways live at the same pace, so that seconds of the guests' clocks are the same seconds; and where this host has
//! too few processors for all at once, each has the same share of them in all ways, alone or not, so that they are the
//! same machines.
//!
//! `cargo bench -p vm-tests --bench cluster`; `FIRSTLIGHT_ROUNDS` sets the number of rounds (3), `FIRSTLIGHT_WAYS` some
//! of the ways (`ours,one,usual`; the usual way takes kubeadm's configuration from one of ours before it). Without KVM a
//! round of all takes an hour and a quarter.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vm_tests::artifacts::{Output, Programs, topology};
use vm_tests::host::Host;
use vm_tests::qemu::DiskFile;
use vm_tests::run::Run;
use vm_tests::site::Site;
use vm_tests::usual::{self, Recipe, ratio, rounds, spread};

#[derive(Debug, Default)]
struct Times {
    ours: Vec<Duration>,
    master0: Vec<Duration>,
    one_join: Vec<Duration>,
    alone_plus_one: Vec<Duration>,
    usual: Vec<Duration>,
}

fn main() -> Result<()> {
    // `cargo test --benches` runs this too, without `--bench`; a benchmark is no test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run = Run::new("cluster-bench")?;
    let output = Output::make(&Programs::build()?, &masters(&run)?)?;
    let images = usual::images_disk(&host, &run)?;
    let ways = std::env::var("FIRSTLIGHT_WAYS").unwrap_or("ours,one,usual".to_owned());
    let mut times = Times::default();
    let mut recipe = None;
    for round in 1..=rounds() {
        for way in ways.split(',') {
            match way {
                "ours" => {
                    let (time, found) = ours(&output)?;
                    recipe = Some(found);
                    println!(
                        "round {round}: ours, all at once, {:.1} s",
                        time.as_secs_f64()
                    );
                    times.ours.push(time);
                }
                "one" => {
                    let (master0, one_join, found) = one_after_another(&output)?;
                    recipe = Some(found);
                    println!(
                        "round {round}: ours, master0 alone {:.1} s and then one join {:.1} s",
                        master0.as_secs_f64(),
                        one_join.as_secs_f64()
                    );
                    times.master0.push(master0);
                    times.one_join.push(one_join);
                    times.alone_plus_one.push(master0 + one_join);
                }
                "usual" => {
                    let recipe = recipe
                        .as_ref()
                        .context("`usual` needs `ours` or `one` before it")?;
                    let time = the_usual_way(&output, &images, recipe)?;
                    println!("round {round}: the usual way {:.1} s", time.as_secs_f64());
                    times.usual.push(time);
                }
                other => bail!("FIRSTLIGHT_WAYS: there is no way `{other}`"),
            }
        }
    }
    report(&host, &output, &times)?;
    run.passed();
    Ok(())
}

fn report(host: &Host, output: &Output, times: &Times) -> Result<()> {
    let machines = site("cluster-bench-shape", output)?;
    let names: Vec<_> = machines
        .cluster
        .members
        .iter()
        .map(|member| member.name.as_str())
        .collect();
    println!(
        "power-on to all Ready: {} ({:?}, seconds of the guests' clocks at pace {:.2}, {} rounds; median, lowest-highest)",
        names.join(" "),
        host.accel(),
        machines.pace(),
        rounds()
    );
    if let Some(cores) = machines.cluster.first().machine.share {
        println!("  each machine has {cores:.2} cores of this host, whatever the others do");
    }
    println!("  ours, all at once            {}", spread(&times.ours));
    println!("  the usual way, in turn       {}", spread(&times.usual));
    println!(
        "  ratio                        {}",
        ratio(&times.ours, &times.usual)
    );
    println!("  master0 alone                {}", spread(&times.master0));
    println!("  one join                     {}", spread(&times.one_join));
    println!(
        "  ours to master0 and one join {}",
        ratio(&times.ours, &times.alone_plus_one)
    );
    machines.passed();
    Ok(())
}

/// The tests' topology without its node, which waits for no master but the first.
fn masters(run: &Run) -> Result<PathBuf> {
    let all = fs::read_to_string(topology("ha"))?;
    let lines: Vec<_> = all
        .lines()
        .filter(|line| !line.contains("role: node"))
        .collect();
    let path = run.folder().join("masters.yaml");
    fs::write(&path, lines.join("\n"))?;
    Ok(path)
}

/// All machines of the topology, off, each with its share of this host.
fn site(name: &str, output: &Output) -> Result<Site> {
    let mut site = Site::prepare(name, output)?;
    let machines = site.cluster.members.len();
    for member in &mut site.cluster.members {
        member.machine.share = site.host.share(machines, member.machine.cpus);
    }
    Ok(site)
}

/// All at once; and what firstboot ran kubeadm with.
fn ours(output: &Output) -> Result<(Duration, Recipe)> {
    let mut site = site("cluster-bench-ours", output)?;
    let begun = Instant::now();
    site.start_all()?;
    site.wait_ready()?;
    let time = guest_time(&site, begun);
    site.is_whole()?;
    let recipe = Recipe::of(site.vm("m0")?)?;
    site.passed();
    Ok((time, recipe))
}

/// master0 alone until it is Ready, then one master, each from its own power-on.
fn one_after_another(output: &Output) -> Result<(Duration, Duration, Recipe)> {
    let mut site = site("cluster-bench-one", output)?;
    let begun = Instant::now();
    site.start("m0")?;
    site.wait_ready()?;
    let master0 = guest_time(&site, begun);
    let begun = Instant::now();
    site.start("m1")?;
    site.wait_ready()?;
    let join = guest_time(&site, begun);
    let recipe = Recipe::of(site.vm("m0")?)?;
    site.passed();
    Ok((master0, join, recipe))
}

/// All are switched on and prepare together; then one joins after another, as kubeadm's documentation has it.
fn the_usual_way(output: &Output, images: &DiskFile, recipe: &Recipe) -> Result<Duration> {
    let mut site = site("cluster-bench-usual", output)?;
    usual::cluster(&mut site.cluster, images, recipe)?;
    let begun = Instant::now();
    site.start_all()?;
    let master0 = site.vm("m0")?;
    usual::wait(master0, usual::READY)?;
    for member in &site.cluster.members[1..] {
        usual::join(master0, member, site.vm(&member.name)?)?;
    }
    let time = guest_time(&site, begun);
    site.passed();
    Ok(time)
}

fn guest_time(site: &Site, since: Instant) -> Duration {
    since.elapsed().mul_f64(site.pace())
}
