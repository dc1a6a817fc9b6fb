//! A bad network keeps no cluster from forming.

use std::time::Duration;

use anyhow::Result;
use vm_tests::net::Quality;
use vm_tests::site::Site;

#[test]
#[ignore = "needs 25 minutes without KVM; run: cargo test -p vm-tests -- --include-ignored"]
fn cluster_forms_with_packet_loss_and_delay() -> Result<()> {
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
