//! Two control-plane hosts and a worker form a working cluster: the smallest with a join, IPVS and
//! traffic between nodes.

use anyhow::Result;
use vm_tests::cluster::checks::{self, Reach};
use vm_tests::cluster::testbed::Testbed;

// Forming takes most of the time, so checks that do not disturb each other share one cluster.
#[test]
fn two_masters_and_a_worker_form_a_cluster() -> Result<()> {
    let Some(mut testbed) = Testbed::with_image_of("cluster_pair", "pair", "one")? else {
        return Ok(());
    };
    testbed.start_all()?;
    testbed.wait_ready_and_print()?;
    testbed.assert_healthy()?;
    checks::worker_access_through_vip(&testbed, "n0")?;
    checks::pods_and_services(&testbed, "n0", Reach::Next)?;
    checks::logs_exec_and_cp(&testbed, "m1", "n0")?;
    testbed.passed();
    Ok(())
}
