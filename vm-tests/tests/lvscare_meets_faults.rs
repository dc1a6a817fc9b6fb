//! lvscare and Debian's keepalived in one machine, with the same apiservers: each fault affects
//! both at the same time.
//!
//! `vm-tests/lvscare-guest/src/faults.rs` checks lvscare and prints a line of JSON for each check.
//! By default only two minutes of a bad network run.

use std::time::Duration;

use anyhow::Result;
use vm_tests::host::Host;
use vm_tests::host::run_dir::RunDir;
use vm_tests::initrd::lvscare_guest::{self, Release};

/// Every check must hold. Prints the measurements.
fn check(name: &str, release: Release, arguments: &[&str], deadline: Duration) -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run_dir = RunDir::new(name)?;
    let outcome = lvscare_guest::run(&host, &run_dir, release, arguments, deadline)?;
    let facts = lvscare_guest::facts(&outcome)?;
    println!("{}", outcome.output);
    let claims = facts.iter().filter(|fact| fact["claim"].is_string());
    let (held, broken): (Vec<_>, Vec<_>) = claims.partition(|claim| claim["holds"] == true);
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    assert!(!held.is_empty(), "nothing was checked: {}", outcome.output);
    run_dir.passed();
    Ok(())
}

/// Most of this is waiting, which takes as long with KVM.
const FAULTS: Duration = Duration::from_secs(300);

#[test]
#[ignore = "2 minutes without KVM, and a Debian tree to build; run: cargo test -p vm-tests --test lvscare_meets_faults ipv4_on_kernel_6_12 -- --include-ignored"]
fn ipv4_on_kernel_6_12() -> Result<()> {
    check("faults_4_612", Release::Trixie, &["faults", "4"], FAULTS)
}

#[test]
#[ignore = "2 minutes without KVM, and a Debian tree to build; run: cargo test -p vm-tests --test lvscare_meets_faults ipv6_on_kernel_6_1 -- --include-ignored --exact"]
fn ipv6_on_kernel_6_1() -> Result<()> {
    check("faults_6_61", Release::Bookworm, &["faults", "6"], FAULTS)
}

#[test]
#[ignore = "2 minutes without KVM, and a Debian tree to build; run: cargo test -p vm-tests --test lvscare_meets_faults ipv4_on_kernel_6_1 -- --include-ignored --exact"]
fn ipv4_on_kernel_6_1() -> Result<()> {
    check("faults_4_61", Release::Bookworm, &["faults", "4"], FAULTS)
}

#[test]
#[ignore = "2 minutes without KVM, and a Debian tree to build; run: cargo test -p vm-tests --test lvscare_meets_faults ipv6_on_kernel_6_12 -- --include-ignored"]
fn ipv6_on_kernel_6_12() -> Result<()> {
    check("faults_6_612", Release::Trixie, &["faults", "6"], FAULTS)
}

/// Runs in a network that loses one packet in a hundred, and delays and reorders the others.
fn bad_network(name: &str, seconds: u64) -> Result<()> {
    let arguments = ["storm", "4", &seconds.to_string()];
    let deadline = Duration::from_secs(seconds) + FAULTS;
    check(name, Release::Trixie, &arguments, deadline)
}

#[test]
fn half_a_minute_of_a_bad_network() -> Result<()> {
    bad_network("short_storm", 30)
}

#[test]
#[ignore = "35 minutes, with and without KVM; run: cargo test -p vm-tests --test lvscare_meets_faults half_an_hour -- --include-ignored"]
fn half_an_hour_of_a_bad_network() -> Result<()> {
    bad_network("storm", 1800)
}
