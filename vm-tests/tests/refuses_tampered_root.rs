//! A machine does not boot from a root file system with one flipped byte.

use std::time::Duration;

use anyhow::Result;
use firstboot::journal::READY;
use userdata::contract::ROOT_PARTITION;
use vm_tests::cluster::Cluster;
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::disk;
use vm_tests::machine::qemu::DiskFormat;

#[test]
fn flipped_byte_in_root_stops_the_boot() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run_dir = RunDir::new("refuses_tampered_root")?;
    let mut cluster = Cluster::new(&host, &run_dir, &output)?;
    let damaged = disk::private_copy(&run_dir, "damaged", &output.image())?;
    // Byte 1024 + 40 is in the superblock, which every mount reads and only dm-verity checks.
    let root = disk::partition(&damaged, ROOT_PARTITION)?;
    disk::flip_byte(&damaged, root.offset + 1024 + 40)?;
    let first = &mut cluster.members[0];
    first.machine.disks[0] =
        disk::overlay(&host, &run_dir, "over-damaged", &damaged, DiskFormat::Raw)?;
    let vm = first.start(&host, &run_dir)?;
    // The message of drivers/md/dm-verity-target.c. The console shows it, because journald does not
    // send the journal from the initrd.
    vm.wait_for_console("is corrupted", Duration::from_secs(90))?;
    // The machine either reboots (`-no-reboot` ends it) or stays in the initrd; it never becomes
    // ready.
    let _ = vm.wait_off(Duration::from_secs(30));
    let records = vm.journal()?.records();
    assert!(
        !records
            .iter()
            .any(|record| record.get("MESSAGE_ID") == Some(READY))
    );
    assert!(
        records.is_empty(),
        "the root was mounted: {}",
        records[0].line()
    );
    drop(vm);
    run_dir.passed();
    Ok(())
}
