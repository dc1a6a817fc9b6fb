//! No document at all: the machine says who it is and what it looked at, and waits. Then one is plugged in.

use std::time::Duration;

use anyhow::Result;
use firstboot::journal::{
    DOCUMENT_AWAITED, DOCUMENT_FOUND, DOCUMENT_REFUSED, FAILED, SOURCE_TRIED, STEP_STARTED, field,
};
use userdata::contract::STATUS_PORT;
use vm_tests::artifacts::{Output, Programs, topology};
use vm_tests::cluster::Cluster;
use vm_tests::host::Host;
use vm_tests::journal::Want;
use vm_tests::run::Run;

#[test]
fn without_a_document_it_waits_and_says_so() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run = Run::new("waits_without_document")?;
    let mut cluster = Cluster::new(&host, &run, &output)?;
    let seed = cluster.members[0]
        .machine
        .disks
        .pop()
        .expect("the document's disk is the last");
    let vm = cluster.first().start(&host, &run)?;
    let never = [
        Want::id(FAILED),
        Want::id(DOCUMENT_REFUSED),
        Want::id(STEP_STARTED),
    ];
    vm.wait_for(
        &Want::id(DOCUMENT_AWAITED),
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
    // A person in front of it can tell which machine it is.
    vm.wait_for_console("52:54:00:00:07:10", Duration::from_secs(30))?;
    assert_eq!(
        vm.ok("ls -A /etc/kubernetes/pki 2>/dev/null; ls /etc/firstlight 2>/dev/null; true")?,
        ""
    );
    // It has no certificate to show yet: who asks for its status is not kept waiting, and leaves nothing behind.
    vm.ok(&format!(
        "timeout 20 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{STATUS_PORT}; cat <&3'"
    ))?;
    let left = vm.ok("systemctl list-units --all --plain --no-legend 'firstboot-status@*'")?;
    assert_eq!(left, "");

    vm.plug_disk(&seed)?;
    let found = vm.wait_for(
        &Want::id(DOCUMENT_FOUND),
        &never[..2],
        Duration::from_secs(120),
    )?;
    assert_eq!(found.get(field::HOST), Some("m0"), "{found:?}");
    drop(vm);
    run.passed();
    Ok(())
}
