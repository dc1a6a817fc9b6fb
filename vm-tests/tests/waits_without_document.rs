//! Without a document firstboot reports the machine's identity and the sources, and waits for a
//! seed disk.

use std::time::Duration;

use anyhow::Result;
use firstboot::journal::{
    DOCUMENT_AWAITED, DOCUMENT_FOUND, DOCUMENT_REFUSED, FAILED, SOURCE_TRIED, STEP_STARTED, field,
};
use userdata::contract::STATUS_PORT;
use vm_tests::cluster::Cluster;
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::journal::RecordMatch;

#[test]
fn machine_without_document_reports_and_waits() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run_dir = RunDir::new("waits_without_document")?;
    let mut cluster = Cluster::new(&host, &run_dir, &output)?;
    let seed = cluster.members[0]
        .machine
        .disks
        .pop()
        .expect("the seed disk is the last");
    let vm = cluster.first().start(&host, &run_dir)?;
    let never = [
        RecordMatch::id(FAILED),
        RecordMatch::id(DOCUMENT_REFUSED),
        RecordMatch::id(STEP_STARTED),
    ];
    vm.wait_for(
        &RecordMatch::id(DOCUMENT_AWAITED),
        &never,
        Duration::from_secs(120),
    )?;
    let tried: Vec<_> = vm
        .journal()?
        .records()
        .into_iter()
        .filter(|r| r.get("MESSAGE_ID") == Some(SOURCE_TRIED))
        .collect();
    assert!(!tried.is_empty());
    for record in &tried {
        assert_eq!(record.get(field::RESULT), Some("nothing"), "{record:?}");
        assert!(
            record
                .get(field::REASON)
                .is_some_and(|reason| !reason.is_empty()),
            "{record:?}"
        );
    }
    // The console identifies the machine by its MAC address.
    vm.wait_for_console("52:54:00:00:07:10", Duration::from_secs(30))?;
    assert_eq!(
        vm.shell("ls -A /etc/kubernetes/pki 2>/dev/null; ls /etc/firstlight 2>/dev/null; true")?,
        ""
    );
    // The host has no certificate yet: nothing listens for status requests, and no unit fails.
    let port = format!("ss --no-header --listening --tcp 'sport = {STATUS_PORT}'");
    assert_eq!(vm.shell(&port)?, "");
    let failed =
        vm.shell("systemctl list-units --failed --plain --no-legend 'firstboot-status*'")?;
    assert_eq!(failed, "");

    vm.plug_disk(&seed)?;
    let found = vm.wait_for(
        &RecordMatch::id(DOCUMENT_FOUND),
        &never[..2],
        Duration::from_secs(120),
    )?;
    assert_eq!(found.get(field::HOST), Some("m0"), "{found:?}");
    drop(vm);
    run_dir.passed();
    Ok(())
}
