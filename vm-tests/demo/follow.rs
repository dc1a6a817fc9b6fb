//! Follows the journals of all machines until every host is ready.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use vm_tests::cluster::{Cluster, READY_DEADLINE};
use vm_tests::machine::vm::Vm;

use crate::interrupt;
use crate::progress::{Progress, State};
use crate::screen::Screen;

/// The number of failures of firstboot that end the demo. systemd restarts firstboot, and a timeout
/// on a slow host rarely repeats.
const MAX_FAILURES: u32 = 5;

/// How often the line of a silent machine is updated.
const UPDATE_INTERVAL: Duration = Duration::from_millis(500);

/// The expected time until all emulated machines are ready, by the guests' clocks. Measured on two
/// cores: a lone master0 112 s; of two control-plane hosts and a worker, 91, 75 and 64 s. More
/// control-plane hosts are not measured.
pub(crate) fn expected_time(cluster: &Cluster) -> Duration {
    let masters = u32::try_from(cluster.control_plane().count()).unwrap_or(u32::MAX);
    match masters {
        0 | 1 => FIRST_MASTER,
        2.. => SECOND_MASTER + ETCD_JOIN * (masters - 2),
    }
}

/// master0; the workers need less and start at the same time.
const FIRST_MASTER: Duration = Duration::from_secs(115);
const SECOND_MASTER: Duration = Duration::from_secs(115);
/// Hosts join etcd one after another, and do everything else at the same time.
const ETCD_JOIN: Duration = Duration::from_secs(15);

/// Shows the progress of every machine until all are ready. Fails as soon as one cannot become
/// ready.
pub(crate) fn until_ready(cluster: &Cluster, machines: &[Vm]) -> Result<()> {
    // A topology may list a worker first.
    let master0 = cluster.control_plane().next().map(|master| master.address);
    let lines = cluster.members.iter().map(|member| {
        let role = match (member.is_control_plane, Some(member.address) == master0) {
            (true, true) => "master0",
            (true, _) => "master",
            (false, _) => "node",
        };
        (member.name.clone(), role)
    });
    let time_scale = cluster.first().machine.time_scale;
    let screen = Screen::new(lines.collect(), time_scale)?;
    let end = AtomicBool::new(false);
    let deadline = READY_DEADLINE.max(expected_time(cluster) * 2);
    thread::scope(|scope| {
        let followers: Vec<_> = machines
            .iter()
            .enumerate()
            .map(|(at, vm)| {
                let (screen, end) = (&screen, &end);
                scope.spawn(move || {
                    let result = follow(at, vm, deadline, screen, end);
                    if result.is_err() {
                        end.store(true, Ordering::Relaxed);
                    }
                    result
                })
            })
            .collect();
        let results: Vec<_> = followers
            .into_iter()
            .map(|follower| {
                follower
                    .join()
                    .unwrap_or_else(|_| bail!("a follower panicked"))
            })
            .collect();
        results.into_iter().collect()
    })
}

fn follow(at: usize, vm: &Vm, deadline: Duration, screen: &Screen, end: &AtomicBool) -> Result<()> {
    let mut progress = Progress::new();
    let mut seen = 0;
    screen.show(at, &progress, false)?;
    while vm.age() < vm.wall(deadline) {
        let (records, more) = vm.journal()?.after(seen, UPDATE_INTERVAL);
        seen += records.len();
        for record in &records {
            if progress.update(record) {
                screen.show(at, &progress, true)?;
                report_failure(vm, &progress, screen)?;
            }
        }
        screen.show(at, &progress, false)?;
        if progress.state == State::Ready || end.load(Ordering::Relaxed) {
            return Ok(());
        }
        interrupt::check()?;
        if !more {
            bail!(
                "machine `{}` has powered off; evidence: {}; end of its console:\n{}",
                vm.name(),
                vm.folder().display(),
                vm.console().tail(15)
            );
        }
    }
    Err(anyhow::anyhow!(
        "not ready after {} minutes; last message: {}",
        vm.age().as_secs() / 60,
        progress.text()
    ))
    .with_context(|| {
        format!(
            "machine `{}` (evidence: {})",
            vm.name(),
            vm.folder().display()
        )
    })
}

/// Reports a failure with its evidence. Returns an error if waiting is useless.
fn report_failure(vm: &Vm, progress: &Progress, screen: &Screen) -> Result<()> {
    let evidence = vm.folder().display();
    let (name, reason) = (vm.name(), progress.text());
    match progress.state {
        State::Failed if progress.failures < MAX_FAILURES => {
            screen.say(&format!(
                "{name}: firstboot failed and restarts: {reason}; evidence: {evidence}"
            ));
            Ok(())
        }
        State::Failed => bail!(
            "machine `{name}`: firstboot has failed {MAX_FAILURES} times; last failure: {reason}; evidence: {evidence}"
        ),
        State::Refused => bail!("machine `{name}`: {reason}; evidence: {evidence}"),
        _ => Ok(()),
    }
}
