//! A bad network and wrong clocks keep no cluster from forming.

use std::time::Duration;

use anyhow::Result;
use vm_tests::net::Quality;
use vm_tests::qemu::Rtc;
use vm_tests::site::Site;

#[test]
#[ignore = "needs 30 minutes without KVM; run: cargo test -p vm-tests -- --include-ignored"]
fn five_percent_loss_and_fifty_milliseconds() -> Result<()> {
    let Some(mut site) = Site::new("bad_network", "ha")? else {
        return Ok(());
    };
    for member in &site.cluster.members {
        // A frame goes through two ports: 6 % and 50 ms, by the guests' clocks.
        member.port.set(Quality {
            delay: Duration::from_millis(25).div_f64(member.machine.pace),
            drop_percent: 3,
            ..Quality::default()
        });
    }
    site.start_all()?;
    site.wait_ready()?;
    site.is_whole()?;
    site.passed();
    Ok(())
}

#[test]
#[ignore = "needs 20 minutes without KVM; run: cargo test -p vm-tests -- --include-ignored"]
fn clocks_ten_years_off_in_both_directions() -> Result<()> {
    let Some(mut site) = Site::new("wrong_clocks", "ha")? else {
        return Ok(());
    };
    let year = 1970 + i64::try_from(now()?.as_secs())? / 31_556_952;
    for (name, years) in [("m0", 10), ("m1", -10), ("m2", 0), ("n0", -10)] {
        site.cluster.member_mut(name)?.machine.rtc =
            Rtc::At(format!("{}-06-01T00:00:00", year + years));
    }
    site.start_all()?;
    site.wait_ready()?;
    // systemd sets no clock before its own release; between those that are left still lie ten years.
    for (name, vm) in &site.on {
        println!("{name} ends in {}", vm.ok("date +%F")?.trim());
    }
    let seen = site.vm("m0")?.ok("date +%Y")?;
    assert_eq!(seen.trim(), (year + 10).to_string());
    site.is_whole()?;
    site.passed();
    Ok(())
}

fn now() -> Result<Duration> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?)
}
