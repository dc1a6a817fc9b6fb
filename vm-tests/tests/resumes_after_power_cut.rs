//! The plug is pulled in the middle of first boot, and the machine still becomes Ready.

use std::time::Duration;

use anyhow::{Context, Result};
use firstboot::journal::{DOCUMENT_REFUSED, FAILED, KUBEADM_STARTED, STEP_STARTED, field};
use vm_tests::artifacts::{Output, Programs, topology};
use vm_tests::cluster::{Cluster, READY_DEADLINE, wait_ready};
use vm_tests::host::Host;
use vm_tests::journal::Want;
use vm_tests::run::Run;

/// When the plug is pulled: at a record, or so long after it.
const CUTS: &[(&str, Option<&str>, Duration)] = &[
    ("while files are written", Some("files"), Duration::ZERO),
    ("as kubeadm starts", None, Duration::ZERO),
    // Under TCG kubeadm is then writing static pods or waiting for them; under KVM it may have got further.
    ("inside kubeadm init", None, Duration::from_secs(10)),
];

#[test]
fn a_machine_cut_off_again_and_again_ends_ready() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run = Run::new("resumes_after_power_cut")?;
    let cluster = Cluster::new(&host, &run, &output)?;
    for (when, step, after) in CUTS {
        let vm = cluster.first().start(&host, &run)?;
        let want = match step {
            Some(step) => Want::id(STEP_STARTED).field(field::STEP, step),
            None => Want::id(KUBEADM_STARTED),
        };
        vm.wait_for(
            &want,
            &[Want::id(FAILED), Want::id(DOCUMENT_REFUSED)],
            READY_DEADLINE,
        )
        .with_context(|| when.to_string())?;
        std::thread::sleep(vm.wall(*after));
        vm.power_cut()?;
    }
    let vm = cluster.first().start(&host, &run)?;
    let ready = wait_ready(&vm)?;
    assert_ne!(
        ready.get(field::CHANGED),
        Some("0"),
        "the cuts came too late to be inside the first boot: {ready:?}"
    );
    assert!(
        vm.ok("kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes --no-headers")?
            .contains(" Ready ")
    );
    drop(vm);
    run.passed();
    Ok(())
}
