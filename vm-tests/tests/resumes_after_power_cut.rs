//! A first boot that loses power at several steps still ends with a Ready node. The cut inside
//! kubeadm is also in `boots_to_ready`.

use std::time::Duration;

use anyhow::{Context, Result};
use firstboot::journal::{DOCUMENT_REFUSED, FAILED, STEP_STARTED, field};
use vm_tests::cluster::{Cluster, READY_DEADLINE, wait_ready};
use vm_tests::host::Host;
use vm_tests::host::artifacts::{Output, Programs, topology};
use vm_tests::host::run_dir::RunDir;
use vm_tests::machine::journal::RecordMatch;

/// When the power is cut: a description, the step, and the delay after its start by the machine's
/// clock.
const CUTS: &[(&str, &str, Duration)] = &[
    // kubeadm's call takes 2.4 s of an emulated machine's clock; under KVM it may be further.
    ("inside kubeadm init", "static-pods", Duration::from_secs(1)),
    ("while files are written", "files", Duration::ZERO),
    ("before kubeadm init", "static-pods", Duration::ZERO),
    (
        "between two calls of kubeadm",
        "apiserver-ready",
        Duration::ZERO,
    ),
    ("with a running apiserver", "init-finish", Duration::ZERO),
];

#[test]
#[ignore = "15 minutes without KVM; run: cargo test -p vm-tests --test resumes_after_power_cut -- --include-ignored"]
fn first_boot_resumes_after_power_cuts() -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let output = Output::make(&Programs::build()?, &topology("one"))?;
    let run_dir = RunDir::new("resumes_after_power_cut")?;
    let cluster = Cluster::new(&host, &run_dir, &output)?;
    for (when, step, after) in CUTS {
        let vm = cluster.first().start(&host, &run_dir)?;
        let want = RecordMatch::id(STEP_STARTED).field(field::STEP, step);
        vm.wait_for(
            &want,
            &[RecordMatch::id(FAILED), RecordMatch::id(DOCUMENT_REFUSED)],
            READY_DEADLINE,
        )
        .with_context(|| when.to_string())?;
        std::thread::sleep(after.div_f64(cluster.first().machine.time_scale));
        vm.power_cut()?;
    }
    let vm = cluster.first().start(&host, &run_dir)?;
    let ready = wait_ready(&vm)?;
    assert_ne!(
        ready.get(field::CHANGED),
        Some("0"),
        "the last boot changed nothing, so the power cuts came after the first boot: {ready:?}"
    );
    assert!(
        vm.shell("kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes --no-headers")?
            .contains(" Ready ")
    );
    drop(vm);
    run_dir.passed();
    Ok(())
}
