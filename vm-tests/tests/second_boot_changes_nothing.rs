//! After a reboot a configured host is Ready again, and firstboot changes nothing, whatever disks
//! are attached. The secrets in its seed are removed.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::Result;
use firstboot::journal::{DOCUMENT_FOUND, DOCUMENT_IGNORED, STEP_DONE, field};
use imagegen::seed;
use vm_tests::cluster::kubectl;
use vm_tests::cluster::snapshot::{self, FIRST_BOOT_DIGEST, STATE_DIGEST};
use vm_tests::cluster::wait_ready;
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::journal::RecordMatch;
use vm_tests::machine::qemu::{DiskFile, DiskFormat, Drive};

/// A guest's disk that names users, a static pod and a command.
const TAKEOVER: &str = include_str!("takeover.yaml");

/// Steps that every boot needs: they start a service or wait for it, or record for a later document
/// what the programs of this boot have read.
const EVERY_BOOT: &[&str] = &[
    "credentials",
    "addresses",
    "runtime",
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
    let mut cluster = snapshot::restored_master0(&host, &run_dir, &output)?;

    // Two disks of strangers, and the seed of this host, writable. Each alone would be a document.
    let mut disks = Vec::new();
    for (name, bytes) in [
        ("stranger0", takeover()?),
        ("stranger1", takeover()?),
        ("own", fs::read(output.seed("m0"))?),
    ] {
        let path = run_dir.folder().join(format!("{name}.img"));
        fs::write(&path, bytes)?;
        disks.push(DiskFile {
            path,
            format: DiskFormat::Raw,
            read_only: false,
            serial: name.to_owned(),
            drive: Drive::default(),
        });
    }
    let first = cluster.first().name.clone();
    let machine = &mut cluster.member_mut(&first)?.machine;
    machine.disks.pop();
    machine.disks.extend(disks.clone());

    let second = cluster.first().start(&host, &run_dir)?;
    let ready = wait_ready(&second)?;
    assert_eq!(ready.get(field::CHANGED), Some("0"), "{ready:?}");
    let found = second.wait_for(
        &RecordMatch::id(DOCUMENT_FOUND),
        &[],
        Duration::from_secs(1),
    )?;
    assert_eq!(found.get(field::SOURCE), Some("kept"), "{found:?}");
    let ignored: Vec<_> = second
        .journal()?
        .records()
        .into_iter()
        .filter(|record| record.get("MESSAGE_ID") == Some(DOCUMENT_IGNORED))
        .collect();
    assert_eq!(ignored.len(), 2, "{ignored:?}");
    let status = second.shell("firstboot status")?;
    assert_eq!(status.matches("has no signature").count(), 2, "{status}");
    assert!(
        status.contains("the secrets are removed from /dev/"),
        "{status}"
    );
    for (disk, before) in disks.iter().zip([takeover()?, takeover()?]) {
        assert!(
            fs::read(&disk.path)? == before,
            "`{}` has changed",
            disk.serial
        );
    }

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
    // The whole disk, so that no block of the file is left.
    let left = fs::read(&disks[2].path)?;
    let has = |text: &[u8]| left.windows(text.len()).any(|bytes| bytes == text);
    assert!(has(b"#firstlight-scrubbed"));
    assert!(!has(b"PRIVATE KEY") && !has(b"client-key-data"));
    run_dir.passed();
    Ok(())
}

fn takeover() -> Result<Vec<u8>> {
    seed::with_files(&[
        ("meta-data", b"instance-id: i-guest\n"),
        ("user-data", TAKEOVER.as_bytes()),
    ])
}
