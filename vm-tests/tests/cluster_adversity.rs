//! A cluster forms in a network that loses and delays packets.

use std::time::Duration;

use anyhow::Result;
use vm_tests::cluster::testbed::Testbed;
use vm_tests::net::switch::Quality;

#[test]
#[ignore = "25 minutes without KVM; run: cargo test -p vm-tests --test cluster_adversity -- --include-ignored"]
fn cluster_forms_with_packet_loss_and_delay() -> Result<()> {
    let Some(mut testbed) = Testbed::new("bad_network", "ha")? else {
        return Ok(());
    };
    for member in &testbed.cluster.members {
        // A frame passes two ports: 6 % loss and a delay of 50 ms by the guests' clocks.
        member.port.set(Quality {
            delay: Duration::from_millis(25).div_f64(member.machine.time_scale),
            drop_percent: 3,
            ..Quality::default()
        });
    }
    testbed.start_all()?;
    testbed.wait_ready()?;
    testbed.assert_healthy()?;
    testbed.passed();
    Ok(())
}
