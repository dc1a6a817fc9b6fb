//! A formed machine is Ready again after a reboot, and firstboot did nothing to it.

use std::collections::BTreeSet;

use anyhow::Result;
use firstboot::journal::{STEP_DONE, field};
use vm_tests::artifacts::{Output, Programs, topology};
use vm_tests::cluster::wait_ready;
use vm_tests::formed::{self, FIRST_STATE, STATE};
use vm_tests::host::Host;
use vm_tests::kube;
use vm_tests::run::Run;

/// Steps that only start something or wait, which every boot needs.
const EVERY_BOOT: &[&str] = &["addresses", "containerd", "kernel", "kubelet", "node-ready"];

#[test]
fn second_boot_changes_nothing_and_is_ready_again() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run = Run::new("second_boot")?;
    let cluster = formed::cluster(&host, &run, &output)?;

    let second = cluster.first().start(&host, &run)?;
    let ready = wait_ready(&second)?;
    assert_eq!(ready.get(field::CHANGED), Some("0"), "{ready:?}");
    let done: BTreeSet<_> = second
        .journal()?
        .records()
        .iter()
        .filter(|record| record.get("MESSAGE_ID") == Some(STEP_DONE))
        .filter_map(|record| Some(record.get(field::STEP)?.to_string()))
        .collect();
    let more: Vec<_> = done
        .iter()
        .filter(|step| !EVERY_BOOT.contains(&step.as_str()))
        .collect();
    assert!(more.is_empty(), "steps ran again: {more:?}");

    // `/etc` keeps a change over a reboot, and nothing that the first boot made is another.
    let before = second.ok(&format!("cat {FIRST_STATE}"))?;
    assert!(before.contains("etc/kubernetes/admin.conf"), "{before}");
    assert_eq!(second.ok(STATE)?, before);
    let nodes = kube::ask(
        &host,
        &cluster,
        cluster.first(),
        &output,
        run.folder(),
        &["get", "nodes", "--no-headers"],
    )?;
    assert!(nodes.split_whitespace().nth(1) == Some("Ready"), "{nodes}");
    drop(second);
    run.passed();
    Ok(())
}
