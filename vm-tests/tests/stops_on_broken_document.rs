//! firstboot refuses a wrong document with one error that names file, line and key, and writes
//! nothing.

use std::time::Duration;

use anyhow::Result;
use firstboot::journal::{DOCUMENT_REFUSED, READY, STEP_STARTED, field};
use vm_tests::cluster::Cluster;
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::disk;
use vm_tests::machine::journal::RecordMatch;

#[test]
fn broken_document_is_refused_before_the_first_change() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run_dir = RunDir::new("stops_on_broken_document")?;
    let mut cluster = Cluster::new(&host, &run_dir, &output)?;
    // The test misspells a key on the seed disk. The file keeps its length, so the FAT does not
    // change.
    let seed = disk::private_copy(&run_dir, "seed", &output.seed("m0"))?;
    let line = disk::replace_in_file(&seed, "\nhostname:", "\nhostnome:")?;
    // Without its signature, which would be refused first.
    disk::replace_in_file(
        &seed,
        "\n# firstlight-signature:",
        "\n# no-longer-signature:.",
    )?;
    let machine = &mut cluster.members[0].machine;
    machine.disks.pop();
    machine.disks.push(disk::seed(&seed));
    let vm = cluster.first().start(&host, &run_dir)?;
    let refused = vm.wait_for(
        &RecordMatch::id(DOCUMENT_REFUSED),
        &[RecordMatch::id(READY), RecordMatch::id(STEP_STARTED)],
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
        vm.shell("ls -A /etc/kubernetes/pki 2>/dev/null; ls /etc/firstlight 2>/dev/null; true")?,
        ""
    );
    assert!(
        !vm.journal()?
            .records()
            .iter()
            .any(|record| record.get("MESSAGE_ID") == Some(STEP_STARTED))
    );
    drop(vm);
    run_dir.passed();
    Ok(())
}
