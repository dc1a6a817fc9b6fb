//! One flipped byte in the root file system, and the machine does not run from it.

use std::time::Duration;

use anyhow::Result;
use firstboot::journal::READY;
use userdata::contract::ROOT_PARTITION;
use vm_tests::artifacts::{Output, Programs, topology};
use vm_tests::cluster::Cluster;
use vm_tests::disk;
use vm_tests::host::Host;
use vm_tests::qemu::DiskFormat;
use vm_tests::run::Run;

#[test]
fn flipped_byte_in_root_stops_the_boot() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run = Run::new("refuses_tampered_root")?;
    let mut cluster = Cluster::new(&host, &run, &output)?;
    let damaged = disk::private_copy(&run, "damaged", &output.image())?;
    // Byte 1024 + 40 lies in the superblock: read at every mount, checked by nothing but dm-verity.
    let root = disk::partition(&damaged, ROOT_PARTITION)?;
    disk::flip_byte(&damaged, root.offset + 1024 + 40)?;
    let first = &mut cluster.members[0];
    first.machine.disks[0] = disk::overlay(&host, &run, "over-damaged", &damaged, DiskFormat::Raw)?;
    let vm = first.start(&host, &run)?;
    // The kernel's own word for it (drivers/md/dm-verity-target.c); there is no journal yet that could leave.
    vm.wait_for_console("is corrupted", Duration::from_secs(90))?;
    // The machine either restarts (`-no-reboot` ends it) or stays in the initrd; it never becomes a host.
    let _ = vm.wait_off(Duration::from_secs(30));
    let records = vm.journal()?.records();
    assert!(
        !records
            .iter()
            .any(|record| record.get("MESSAGE_ID") == Some(READY))
    );
    assert!(
        records.is_empty(),
        "the root came up: {}",
        records[0].line()
    );
    drop(vm);
    run.passed();
    Ok(())
}
