//! A running host takes a newer document that comes by ssh, without a restart of the machine: the way
//! in which `docs/operations.md` gives documents to hosts during a rotation.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use firstboot::journal::{DOCUMENT_FOUND, STEP_STARTED, field};
use userdata::contract::CLIENT_AUTHORITIES;
use vm_tests::cluster::{Cluster, READY_DEADLINE, never_ready, ssh};
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::journal::RecordMatch;

/// Of the manual, but for `--no-block`: this worker waits for its masters, which are off.
const GIVE: &str =
    "cat >/dev/disk/by-partlabel/firstlight-seed && systemctl restart --no-block firstboot";

#[test]
fn waiting_worker_takes_a_newer_document_by_ssh() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let programs = Programs::build()?;
    let output = Output::make(&programs, &topology("rotation"))?;
    let run_dir = RunDir::new("takes_newer_document")?;
    let cluster = Cluster::new(&host, &run_dir, &output)?;
    let worker = cluster.member("n0")?;
    let vm = worker.start(&host, &run_dir)?;
    let waits = RecordMatch::id(STEP_STARTED).field(field::STEP, "kubelet-start");
    vm.wait_for(&waits, &never_ready(), READY_DEADLINE)?;
    let absent = format!("[ ! -e {CLIENT_AUTHORITIES} ]");
    vm.shell(&absent)?;

    let folder = run_dir.folder();
    let newer = output.changed(
        &programs,
        &topology("rotation-stolen"),
        &folder.join("output"),
    )?;
    newer.rotate(&programs, &["--expel", "n1"])?;
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/test-key");
    let key = ssh::private_copy(Path::new(key), folder)?;
    let login = ssh::arguments(&cluster, worker, &vm, &key, folder)?;
    let seed = File::open(newer.seed("n0"))?;
    let within = vm.wall(Duration::from_secs(60));
    ssh::run_with(&login, GIVE, seed.into(), Some(within))?;

    let found = RecordMatch::id(DOCUMENT_FOUND).field(field::SOURCE, "seed-partition");
    vm.wait_for(&found, &never_ready(), READY_DEADLINE)?;
    let present = format!("until [ -e {CLIENT_AUTHORITIES} ]; do sleep 0.2; done");
    vm.shell_within(&present, READY_DEADLINE)?;
    // The first document was the first, and the one of the changed topology stayed here.
    let status = ssh::run(&login, "firstboot status --json")?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let generation = status.pointer("/document/generation");
    ensure!(
        generation.and_then(serde_json::Value::as_u64) == Some(3),
        "{status}"
    );
    drop(vm);
    run_dir.passed();
    Ok(())
}
