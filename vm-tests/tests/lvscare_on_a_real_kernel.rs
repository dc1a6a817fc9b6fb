//! lvscare against the kernel's own IPVS, in a machine that has nothing else: its claims are in its guest program
//! (`lvscare/examples/guest.rs`), one `ok …` line each.

use std::time::Duration;

use anyhow::Result;
use vm_tests::artifacts::Programs;
use vm_tests::host::Host;
use vm_tests::initrd::InitrdTest;
use vm_tests::run::Run;

const MODULES: &[&str] = &[
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wlc",
    "nf_conntrack",
    "inet_diag",
    "tcp_diag",
];

/// Runs one part of the guest program; every claim in it must hold.
fn prove(part: &str, deadline: Duration) -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let lvscare = Programs::build_static()?.join("lvscare");
    let guest = Programs::build_lvscare_guest()?;
    let run = Run::new(&format!("lvscare_{part}"))?;
    let outcome = InitrdTest::new(&format!("lvscare-{part}"), &guest)
        .arguments(&[part])
        .modules(MODULES)
        .file("/bin/lvscare", std::fs::read(lvscare)?)
        .run(&host, &run, deadline)?;
    println!("{}", outcome.output);
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    assert!(
        outcome.output.lines().any(|line| line.starts_with("ok ")),
        "it proved nothing: {}",
        outcome.output
    );
    run.passed();
    Ok(())
}

#[test]
fn ipvs_codec_round_trips_through_the_kernel() -> Result<()> {
    prove("codec", Duration::from_secs(20))
}

#[test]
fn daemon_keeps_the_table_in_its_desired_state() -> Result<()> {
    prove("care", Duration::from_secs(60))
}
