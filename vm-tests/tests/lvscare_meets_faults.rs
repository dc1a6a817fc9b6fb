//! lvscare beside Debian's keepalived, in one machine, with the same masters: each fault comes to both at the same
//! instant. What must hold of ours is in `lvscare/examples/guest/faults.rs`; each claim is a line of JSON.
//!
//! Two minutes of a bad network run by default. All: `cargo test -p vm-tests --test lvscare_meets_faults --
//! --include-ignored`

use std::time::Duration;

use anyhow::Result;
use vm_tests::host::Host;
use vm_tests::lvscare_guest::{self, Release};
use vm_tests::run::Run;

/// Every claim must hold; what was measured on the way is printed.
fn prove(name: &str, release: Release, arguments: &[&str], deadline: Duration) -> Result<()> {
    let Some(host) = Host::or_skip()? else {
        return Ok(());
    };
    let run = Run::new(name)?;
    let outcome = lvscare_guest::run(&host, &run, release, arguments, deadline)?;
    let facts = lvscare_guest::facts(&outcome)?;
    println!("{}", outcome.output);
    let claims = facts.iter().filter(|fact| fact["claim"].is_string());
    let (held, broken): (Vec<_>, Vec<_>) = claims.partition(|claim| claim["holds"] == true);
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    assert!(!held.is_empty(), "it proved nothing: {}", outcome.output);
    run.passed();
    Ok(())
}

/// Most of it is waiting, which takes as long on a fast machine.
const FAULTS: Duration = Duration::from_secs(300);

#[test]
#[ignore = "two minutes of emulation and a Debian tree of its own; run: cargo test -p vm-tests -- --include-ignored"]
fn ipv4_on_kernel_6_12() -> Result<()> {
    prove("faults_4_612", Release::Trixie, &["faults", "4"], FAULTS)
}

#[test]
#[ignore = "two minutes of emulation and a Debian tree of its own; run: cargo test -p vm-tests -- --include-ignored"]
fn ipv6_on_kernel_6_1() -> Result<()> {
    prove("faults_6_61", Release::Bookworm, &["faults", "6"], FAULTS)
}

#[test]
#[ignore = "two minutes of emulation and a Debian tree of its own; run: cargo test -p vm-tests -- --include-ignored"]
fn ipv4_on_kernel_6_1() -> Result<()> {
    prove("faults_4_61", Release::Bookworm, &["faults", "4"], FAULTS)
}

#[test]
#[ignore = "two minutes of emulation and a Debian tree of its own; run: cargo test -p vm-tests -- --include-ignored"]
fn ipv6_on_kernel_6_12() -> Result<()> {
    prove("faults_6_612", Release::Trixie, &["faults", "6"], FAULTS)
}

/// In a network that loses one packet in a hundred and delays the rest, out of order.
fn bad_network(name: &str, seconds: u64) -> Result<()> {
    let arguments = ["storm", "4", &seconds.to_string()];
    let deadline = Duration::from_secs(seconds) + FAULTS;
    prove(name, Release::Trixie, &arguments, deadline)
}

#[test]
fn two_minutes_of_a_bad_network() -> Result<()> {
    bad_network("short_storm", 120)
}

#[test]
#[ignore = "takes half an hour by design; run: cargo test -p vm-tests -- --include-ignored"]
fn half_an_hour_of_a_bad_network() -> Result<()> {
    bad_network("storm", 1800)
}
