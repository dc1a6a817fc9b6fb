//! lvscare against the IPVS of a kernel, in a machine with nothing else.
//!
//! The checks are in `vm-tests/lvscare-guest`, which prints a line `ok …` for each.

use std::time::Duration;

use anyhow::Result;
use vm_tests::host::Host;
use vm_tests::host::artifacts::Programs;
use vm_tests::host::run_dir::RunDir;
use vm_tests::initrd::InitrdTest;

const MODULES: &[&str] = &[
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wlc",
    "nf_conntrack",
    "inet_diag",
    "tcp_diag",
];

/// Runs one part of the guest program. Every check in it must hold.
fn check(part: &str, deadline: Duration) -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let lvscare = Programs::build_static()?.join("lvscare");
    let guest = Programs::build_lvscare_guest()?;
    let run_dir = RunDir::new(&format!("lvscare_{part}"))?;
    let outcome = InitrdTest::new(&format!("lvscare-{part}"), &guest)
        .arguments(&[part])
        .modules(MODULES)
        .file("/bin/lvscare", std::fs::read(lvscare)?)
        .run(&host, &run_dir, deadline)?;
    println!("{}", outcome.output);
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    assert!(
        outcome.output.lines().any(|line| line.starts_with("ok ")),
        "nothing was checked: {}",
        outcome.output
    );
    run_dir.passed();
    Ok(())
}

#[test]
fn ipvs_codec_round_trips_through_the_kernel() -> Result<()> {
    check("codec", Duration::from_secs(20))
}

#[test]
fn daemon_keeps_the_table_in_its_desired_state() -> Result<()> {
    check("care", Duration::from_secs(60))
}
