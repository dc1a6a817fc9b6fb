//! Watching all machines at once until they are ready.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use vm_tests::cluster::{Cluster, READY_DEADLINE};
use vm_tests::vm::Vm;

use crate::interrupt;
use crate::progress::{Progress, State};
use crate::screen::Screen;

/// firstboot starts again after a failure, and what a slow host makes fail once mostly does not fail twice.
const FAILURES: u32 = 5;

/// Between two looks at a machine that says nothing.
const LOOK: Duration = Duration::from_millis(500);

/// How long emulated machines take until all are ready, by their own clocks: measured with three masters and a node on two
/// idle cores (the node 183 s, master0 206 s, the others 288 s and 305 s).
pub(crate) fn usual(cluster: &Cluster) -> Duration {
    let masters = u32::try_from(cluster.masters().count()).unwrap_or(u32::MAX);
    match masters {
        0 | 1 => FIRST_MASTER,
        2.. => SECOND_MASTER + TURN * (masters - 2),
    }
}

/// master0, and meanwhile all nodes.
const FIRST_MASTER: Duration = Duration::from_secs(205);
const SECOND_MASTER: Duration = Duration::from_secs(290);
/// Masters join etcd one after another; all else they do together.
const TURN: Duration = Duration::from_secs(15);

/// Shows what every machine says of its boot until all are ready. The first that cannot become ready ends it.
pub(crate) fn until_ready(cluster: &Cluster, machines: &[Vm]) -> Result<()> {
    // A topology may name a node before them.
    let master0 = cluster.masters().next().map(|master| master.address);
    let lines = cluster.members.iter().map(|member| {
        let role = match (member.is_master, Some(member.address) == master0) {
            (true, true) => "master0",
            (true, _) => "master",
            (false, _) => "node",
        };
        (member.name.clone(), role)
    });
    let pace = cluster.first().machine.pace;
    let screen = Screen::new(lines.collect(), pace)?;
    let end = AtomicBool::new(false);
    let deadline = READY_DEADLINE.max(usual(cluster) * 2);
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
        let (records, more) = vm.journal()?.after(seen, LOOK);
        seen += records.len();
        for record in &records {
            if progress.hear(record) {
                screen.show(at, &progress, true)?;
                failed(vm, &progress, screen)?;
            }
        }
        screen.show(at, &progress, false)?;
        if progress.state == State::Ready || end.load(Ordering::Relaxed) {
            return Ok(());
        }
        interrupt::check()?;
        if !more {
            bail!(
                "machine `{}` switched itself off; evidence: {}; its console shows last:\n{}",
                vm.name(),
                vm.folder().display(),
                vm.console().tail(15)
            );
        }
    }
    Err(anyhow::anyhow!(
        "not ready after {} minutes; it last said: {}",
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

/// Says why and where to look; an error when it is no use to wait.
fn failed(vm: &Vm, progress: &Progress, screen: &Screen) -> Result<()> {
    let evidence = vm.folder().display();
    let (name, reason) = (vm.name(), progress.text());
    match progress.state {
        State::Failed if progress.failures < FAILURES => {
            screen.say(&format!(
                "{name} failed and starts again: {reason}; evidence: {evidence}"
            ));
            Ok(())
        }
        State::Failed => bail!(
            "machine `{name}` has failed {FAILURES} times, the last time: {reason}; evidence: {evidence}"
        ),
        State::Refused => bail!("machine `{name}`: {reason}; evidence: {evidence}"),
        _ => Ok(()),
    }
}
