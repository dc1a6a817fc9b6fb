//! A first boot that loses power at each of several steps still ends with a Ready node.

use std::time::Duration;

use anyhow::{Context, Result};
use firstboot::journal::{DOCUMENT_REFUSED, FAILED, STEP_STARTED, field};
use vm_tests::artifacts::{Output, Programs, topology};
use vm_tests::cluster::{Cluster, READY_DEADLINE, wait_ready};
use vm_tests::host::Host;
use vm_tests::journal::Want;
use vm_tests::run::Run;

/// The boundary at which the power is cut: the start of a step, or a delay after it.
const CUTS: &[(&str, &str, Duration)] = &[
    ("while files are written", "files", Duration::ZERO),
    ("before kubeadm init", "static-pods", Duration::ZERO),
    // Under TCG kubeadm is then writing static pods; under KVM it may be further.
    (
        "inside kubeadm init",
        "static-pods",
        Duration::from_secs(10),
    ),
    ("between kubeadm's calls", "apiserver-ready", Duration::ZERO),
    ("with a running apiserver", "init-finish", Duration::ZERO),
];

#[test]
fn first_boot_with_repeated_power_cuts_ends_ready() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run = Run::new("resumes_after_power_cut")?;
    let cluster = Cluster::new(&host, &run, &output)?;
    for (when, step, after) in CUTS {
        let vm = cluster.first().start(&host, &run)?;
        let want = Want::id(STEP_STARTED).field(field::STEP, step);
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
