//! After a reboot a configured host is Ready again, and firstboot changes nothing.

use std::collections::BTreeSet;

use anyhow::Result;
use firstboot::journal::{STEP_DONE, field};
use vm_tests::cluster::kubectl;
use vm_tests::cluster::snapshot::{self, FIRST_BOOT_DIGEST, STATE_DIGEST};
use vm_tests::cluster::wait_ready;
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;

/// Steps that every boot needs, because they start a service or wait for it.
const EVERY_BOOT: &[&str] = &[
    "addresses",
    "containerd",
    "kernel",
    "kubelet",
    "node-ready",
    "ssh",
];

#[test]
fn second_boot_changes_nothing_and_is_ready_again() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run_dir = RunDir::new("second_boot")?;
    let cluster = snapshot::restored_master0(&host, &run_dir, &output)?;

    let second = cluster.first().start(&host, &run_dir)?;
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
    assert!(more.is_empty(), "firstboot repeated steps: {more:?}");

    // `/etc` is persistent, and no file of the first boot has changed.
    let before = second.shell(&format!("cat {FIRST_BOOT_DIGEST}"))?;
    assert!(before.contains("etc/kubernetes/admin.conf"), "{before}");
    assert_eq!(second.shell(STATE_DIGEST)?, before);
    let nodes = kubectl::run(
        &host,
        &cluster,
        cluster.first(),
        &output,
        run_dir.folder(),
        &["get", "nodes", "--no-headers"],
    )?;
    assert!(nodes.split_whitespace().nth(1) == Some("Ready"), "{nodes}");
    drop(second);
    run_dir.passed();
    Ok(())
}
