//! Time from power-on until three control-plane hosts are Ready, in three ways:
//!
//! - `firstlight`: Firstlight, all hosts at the same time;
//! - `one-join`: Firstlight, master0 alone and then one more host. Three hosts at the same time
//!   should take at most 1.5 times as long;
//! - `baseline`: the same machines with kubeadm, one after another.
//!
//! All machines have the same time scale, so that seconds of the guests' clocks are comparable. If
//! the host has too few cores for all machines, each machine has the same CPU quota in all ways.
//!
//! `cargo bench -p vm-tests --bench cluster`. `FIRSTLIGHT_ROUNDS` is the number of rounds (3) and
//! `FIRSTLIGHT_WAYS` selects ways (`firstlight,one-join,baseline`); `baseline` takes kubeadm's
//! configuration from a way before it. Without KVM a round of all takes 75 minutes.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vm_tests::baseline::{self, KubeadmSetup};
use vm_tests::cluster::testbed::Testbed;
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::qemu::DiskFile;
use vm_tests::stats::{ratio, rounds, spread};

#[derive(Debug, Default)]
struct Times {
    firstlight: Vec<Duration>,
    master0: Vec<Duration>,
    one_join: Vec<Duration>,
    alone_plus_one: Vec<Duration>,
    baseline: Vec<Duration>,
}

fn main() -> Result<()> {
    // `cargo test --benches` runs this program too, without `--bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run_dir = RunDir::new("cluster-bench")?;
    let output = Output::make(&Programs::build()?, &masters(&run_dir)?)?;
    let images = baseline::images_disk(&host, &run_dir)?;
    let ways =
        std::env::var("FIRSTLIGHT_WAYS").unwrap_or("firstlight,one-join,baseline".to_owned());
    let mut times = Times::default();
    let mut setup = None;
    for round in 1..=rounds() {
        for way in ways.split(',') {
            match way {
                // `ours`, `one` and `usual` are the names of earlier versions.
                "firstlight" | "ours" => {
                    let (time, found) = all_at_once(&output)?;
                    setup = Some(found);
                    println!(
                        "round {round}: Firstlight, all at once: {:.1} s",
                        time.as_secs_f64()
                    );
                    times.firstlight.push(time);
                }
                "one-join" | "one" => {
                    let (master0, one_join, found) = one_after_another(&output)?;
                    setup = Some(found);
                    println!(
                        "round {round}: Firstlight, master0 alone: {:.1} s, one join: {:.1} s",
                        master0.as_secs_f64(),
                        one_join.as_secs_f64()
                    );
                    times.master0.push(master0);
                    times.one_join.push(one_join);
                    times.alone_plus_one.push(master0 + one_join);
                }
                "baseline" | "usual" => {
                    let setup = setup
                        .as_ref()
                        .context("`baseline` needs `firstlight` or `one-join` before it")?;
                    let time = with_kubeadm(&output, &images, setup)?;
                    println!("round {round}: baseline: {:.1} s", time.as_secs_f64());
                    times.baseline.push(time);
                }
                other => bail!("FIRSTLIGHT_WAYS: unknown way `{other}`"),
            }
        }
    }
    report(&host, &output, &times)?;
    run_dir.passed();
    Ok(())
}

fn report(host: &Host, output: &Output, times: &Times) -> Result<()> {
    let machines = new_testbed("cluster-bench-shape", output)?;
    let names: Vec<_> = machines
        .cluster
        .members
        .iter()
        .map(|member| member.name.as_str())
        .collect();
    println!(
        "power-on to all Ready: {} ({:?}, seconds of the guests' clocks at time scale {:.2}, {} rounds; median, lowest-highest)",
        names.join(" "),
        host.accel(),
        machines.time_scale(),
        rounds()
    );
    if let Some(cores) = machines.cluster.first().machine.cpu_quota {
        println!("  each machine may use {cores:.2} cores of this host");
    }
    println!(
        "  Firstlight, all at once      {}",
        spread(&times.firstlight)
    );
    println!("  baseline, one after another  {}", spread(&times.baseline));
    println!(
        "  ratio                        {}",
        ratio(&times.firstlight, &times.baseline)
    );
    println!("  master0 alone                {}", spread(&times.master0));
    println!("  one join                     {}", spread(&times.one_join));
    println!(
        "  all at once to one join      {}",
        ratio(&times.firstlight, &times.alone_plus_one)
    );
    machines.passed();
    Ok(())
}

/// The topology `ha` without its worker, which does not wait for the other control-plane hosts.
fn masters(run_dir: &RunDir) -> Result<PathBuf> {
    let all = fs::read_to_string(topology("ha"))?;
    let lines: Vec<_> = all
        .lines()
        .filter(|line| !line.contains("role: node"))
        .collect();
    let path = run_dir.folder().join("masters.yaml");
    fs::write(&path, lines.join("\n"))?;
    Ok(path)
}

/// All machines of the topology, off, each with its CPU quota.
fn new_testbed(name: &str, output: &Output) -> Result<Testbed> {
    let mut testbed = Testbed::prepare(name, output)?;
    let machines = testbed.cluster.members.len();
    for member in &mut testbed.cluster.members {
        member.machine.cpu_quota = testbed.host.cpu_quota(machines, member.machine.cpus);
    }
    Ok(testbed)
}

/// Starts all hosts at the same time. Returns also firstboot's configuration of kubeadm.
fn all_at_once(output: &Output) -> Result<(Duration, KubeadmSetup)> {
    let mut testbed = new_testbed("cluster-bench-firstlight", output)?;
    let start = Instant::now();
    testbed.start_all()?;
    testbed.wait_ready()?;
    let time = guest_time(&testbed, start);
    testbed.assert_healthy()?;
    let setup = KubeadmSetup::of(testbed.vm("m0")?)?;
    testbed.passed();
    Ok((time, setup))
}

/// Starts master0, and one more host when it is Ready. Each time counts from its own power-on.
fn one_after_another(output: &Output) -> Result<(Duration, Duration, KubeadmSetup)> {
    let mut testbed = new_testbed("cluster-bench-one", output)?;
    let start = Instant::now();
    testbed.start("m0")?;
    testbed.wait_ready()?;
    let master0 = guest_time(&testbed, start);
    let start = Instant::now();
    testbed.start("m1")?;
    testbed.wait_ready()?;
    let join = guest_time(&testbed, start);
    let setup = KubeadmSetup::of(testbed.vm("m0")?)?;
    testbed.passed();
    Ok((master0, join, setup))
}

/// All hosts start and prepare at the same time, then join one after another as in kubeadm's
/// documentation.
fn with_kubeadm(output: &Output, images: &DiskFile, setup: &KubeadmSetup) -> Result<Duration> {
    let mut testbed = new_testbed("cluster-bench-baseline", output)?;
    baseline::cluster(&mut testbed.cluster, images, setup)?;
    let start = Instant::now();
    testbed.start_all()?;
    let master0 = testbed.vm("m0")?;
    baseline::wait(master0, baseline::READY)?;
    for member in &testbed.cluster.members[1..] {
        baseline::join(master0, member, testbed.vm(&member.name)?)?;
    }
    let time = guest_time(&testbed, start);
    testbed.passed();
    Ok(time)
}

fn guest_time(testbed: &Testbed, since: Instant) -> Duration {
    since.elapsed().mul_f64(testbed.time_scale())
}
