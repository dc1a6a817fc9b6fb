//! Clients on a worker keep access to the apiservers when kube-proxy, an apiserver or a
//! control-plane host fails: new requests through the VIP, and kubelet's long-lived connection.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_tests::cluster::snapshot;
use vm_tests::cluster::testbed::Testbed;
use vm_tests::machine::vm::Vm;
use vm_tests::observe::kubelet_connection::{KubeletConnection, reconnected_after};
use vm_tests::observe::request_monitor::{RequestMonitor, wait_for_servers};

const DOMAIN: &str = "apiserver.cluster.local";
const VIP: &str = "10.103.97.2";

#[test]
#[ignore = "20 minutes without KVM, and 20 more if no cluster is saved; run: cargo test -p vm-tests --test cluster_clients -- --include-ignored"]
fn clients_survive_kube_proxy_apiserver_and_master_loss() -> Result<()> {
    let Some(testbed) = snapshot::restored("clients", "ha")? else {
        return Ok(());
    };
    testbed.assert_healthy()?;
    wait_until_all_serve(&testbed)?;
    restart_kube_proxy(&testbed)?;
    lose_master(&testbed, "loses its apiserver", |master| {
        master.shell("pkill -KILL -x kube-apiserver").map(drop)
    })?;
    // kubelet restarts the apiserver.
    wait_until_all_serve(&testbed)?;
    lose_master(&testbed, "loses power", Vm::power_cut)?;
    testbed.cluster.assert_no_packet_left()?;
    testbed.passed();
    Ok(())
}

fn wait_until_all_serve(testbed: &Testbed) -> Result<()> {
    let (node, all) = (testbed.vm("n0")?, testbed.cluster.apiservers(&[]));
    wait_for_servers(node, Duration::from_secs(360), &all)
}

/// kube-proxy programs IPVS or iptables too, and must not remove the virtual service of lvscare.
fn restart_kube_proxy(testbed: &Testbed) -> Result<()> {
    let node = testbed.vm("n0")?;
    let requests = RequestMonitor::start(node, DOMAIN)?;
    let old = node.shell("pgrep -x kube-proxy")?;
    node.shell("pkill -KILL -x kube-proxy")?;
    node.shell_within(
        &format!(
            "until p=$(pgrep -x kube-proxy) && [ \"$p\" != '{}' ]; do sleep 0.5; done",
            old.trim()
        ),
        Duration::from_secs(180),
    )
    .context("kubelet has not restarted kube-proxy")?;
    requests.wait_for_requests(Duration::from_secs(120), 20)?;
    let report = requests.stop()?;
    println!("kube-proxy restarts, new requests: {report}");
    ensure!(
        report.requests.iter().all(|request| request.is_ok()),
        "{report}"
    );
    // On a slow host lvscare may drain a late apiserver; only an empty table is a failure.
    ensure!(
        report.tables.iter().all(|(_, servers)| !servers.is_empty()),
        "the IPVS table was empty: {report}"
    );
    Ok(())
}

/// Lets the control-plane host fail to which kubelet is connected, and waits until neither the IPVS
/// table nor kubelet uses it.
fn lose_master(testbed: &Testbed, fault: &str, fail: impl FnOnce(&Vm) -> Result<()>) -> Result<()> {
    let node = testbed.vm("n0")?;
    let connection = KubeletConnection::start(node, VIP)?;
    let requests = RequestMonitor::start(node, DOMAIN)?;
    let dead = connection.server()?;
    let master = master_at(testbed, &dead)?;
    let since = uptime(node)?;
    fail(testbed.vm(&master)?)?;
    let server = format!("{dead}:6443");
    requests.wait_for_table(Duration::from_secs(120), &server, false)?;
    connection.wait_for_another(Duration::from_secs(240), &dead)?;
    requests.wait_for_requests(Duration::from_secs(120), 20)?;
    let (report, history) = (requests.stop()?, connection.stop()?);
    let time = reconnected_after(&history, since, &dead);
    println!("{master} {fault}: kubelet reconnects after {time:?} s; new requests: {report}");
    ensure!(time.is_some(), "kubelet did not reconnect: {history:?}");
    ensure!(report.failed_without(&server).is_empty(), "{report}");
    Ok(())
}

fn master_at(testbed: &Testbed, address: &str) -> Result<String> {
    let mut masters = testbed.cluster.control_plane();
    let found = masters.find(|master| master.address.to_string() == address);
    Ok(found
        .with_context(|| format!("no control-plane host has the address {address}"))?
        .name
        .clone())
}

fn uptime(vm: &Vm) -> Result<f64> {
    let text = vm.shell("cut -d' ' -f1 /proc/uptime")?;
    text.trim()
        .parse()
        .with_context(|| format!("`{text}` is not a time"))
}
