//! The default kernel boots, with the firmware, microcode, modules and packages of a topology, from
//! a SATA disk, and a clock that is behind the image is lifted.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use anyhow::{Context, Result};
use firstboot::journal::{DOCUMENT_FOUND, field};
use userdata::contract::ESP_PARTITION;
use vm_tests::cluster::{Cluster, never_ready};
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::disk;
use vm_tests::machine::journal::RecordMatch;
use vm_tests::machine::qemu::{Drive, Rtc};

#[test]
#[ignore = "8 minutes without KVM; run: cargo test -p vm-tests --test hardware -- --include-ignored"]
fn default_kernel_boots_with_what_a_site_adds() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("hardware"))?;
    let run_dir = RunDir::new("hardware")?;

    // Microcode is in front of the initrd, uncompressed, where the kernel looks for it.
    let esp = disk::partition(&output.image(), ESP_PARTITION)?;
    let mut image = File::open(output.image())?;
    image.seek(SeekFrom::Start(esp.offset))?;
    let mut bytes = Vec::new();
    image.take(esp.length).read_to_end(&mut bytes)?;
    for name in ["GenuineIntel.bin", "AuthenticAMD.bin"] {
        let path = format!("kernel/x86/microcode/{name}");
        let found = bytes
            .windows(path.len())
            .any(|part| part == path.as_bytes());
        assert!(found, "the kernel image has no `{path}`");
    }
    drop(bytes);

    let mut cluster = Cluster::new(&host, &run_dir, &output)?;
    let machine = &mut cluster.members[0].machine;
    machine.disks[0].drive = Drive::Ahci;
    // As with an empty battery.
    machine.rtc = Rtc::At("1999-01-01T00:00:00".to_owned());
    let vm = cluster.first().start(&host, &run_dir)?;
    let found = vm.wait_for(
        &RecordMatch::id(DOCUMENT_FOUND),
        &never_ready(),
        Duration::from_secs(240),
    )?;
    assert_eq!(found.get(field::HOST), Some("m0"), "{found:?}");
    let release = vm.shell("uname -r")?;
    assert!(
        release.contains("amd64") && !release.contains("cloud"),
        "{release}"
    );
    vm.shell("grep -q '^nvme_tcp ' /proc/modules")
        .context("the module of the topology")?;
    vm.shell("ls /usr/lib/firmware/bnx2/*.fw* && lspci && command -v iscsiadm")
        .context("firmware and packages of the topology")?;
    // A package's service is enabled as Debian enables it.
    let enabled = vm.shell("systemctl is-enabled iscsid.socket iscsid.service || true")?;
    assert!(enabled.contains("enabled"), "{enabled}");
    let year: u32 = vm.shell("date +%Y")?.trim().parse()?;
    assert!(year >= 2026, "the clock says {year}");
    drop(vm);
    run_dir.passed();
    Ok(())
}
