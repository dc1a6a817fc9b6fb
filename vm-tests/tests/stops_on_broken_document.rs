//! A document that is there but wrong: one error that names file, line and key, and nothing was written.

use std::time::Duration;

use anyhow::Result;
use firstboot::journal::{DOCUMENT_REFUSED, READY, STEP_STARTED, field};
use vm_tests::artifacts::{Output, Programs, topology};
use vm_tests::cluster::Cluster;
use vm_tests::disk;
use vm_tests::host::Host;
use vm_tests::journal::Want;
use vm_tests::run::Run;

#[test]
fn a_broken_document_stops_before_the_first_change() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run = Run::new("stops_on_broken_document")?;
    let mut cluster = Cluster::new(&host, &run, &output)?;
    // The key is misspelt on its own seed disk, in place: the file keeps its length, so the FAT needs no change.
    let seed = disk::private_copy(&run, "seed", &output.seed("m0"))?;
    let line = disk::replace_in_file(&seed, "\nhostname:", "\nhostnome:")?;
    let machine = &mut cluster.members[0].machine;
    machine.disks.pop();
    machine.disks.push(disk::seed(&seed));
    let vm = cluster.first().start(&host, &run)?;
    let refused = vm.wait_for(
        &Want::id(DOCUMENT_REFUSED),
        &[Want::id(READY), Want::id(STEP_STARTED)],
        Duration::from_secs(120),
    )?;
    let reason = format!(
        "{} {}",
        refused.message(),
        refused.get(field::REASON).unwrap_or_default()
    );
    for part in ["user-data", "hostnome", &format!(":{line}:")] {
        assert!(reason.contains(part), "`{part}` is not in: {reason}");
    }
    vm.wait_for_console("hostnome", Duration::from_secs(30))?;
    assert_eq!(
        vm.ok("ls -A /etc/kubernetes/pki 2>/dev/null; ls /etc/firstlight 2>/dev/null; true")?,
        ""
    );
    assert!(
        !vm.journal()?
            .records()
            .iter()
            .any(|record| record.get("MESSAGE_ID") == Some(STEP_STARTED))
    );
    drop(vm);
    run.passed();
    Ok(())
}
