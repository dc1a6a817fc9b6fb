//! What a node's clients see when something happens to what lies between them and the apiservers: new requests through
//! the VIP, and kubelet's held connection.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_tests::asking::{Asking, wait_for_servers};
use vm_tests::kubelet_flow::{KubeletFlow, back_after};
use vm_tests::site::Site;
use vm_tests::vm::Vm;

const DOMAIN: &str = "apiserver.cluster.local";
const VIP: &str = "10.103.97.2";

#[test]
#[ignore = "needs 20 minutes without KVM, and a formed cluster; run: cargo test -p vm-tests -- --include-ignored"]
fn clients_survive_kube_proxy_apiserver_and_master_loss() -> Result<()> {
    let Some(site) = Site::formed("clients", "ha")? else {
        return Ok(());
    };
    site.is_whole()?;
    all_serve(&site)?;
    kube_proxy_restarts(&site)?;
    loses(&site, "without its apiserver", |master| {
        master.ok("pkill -KILL -x kube-apiserver").map(drop)
    })?;
    // kubelet starts it again.
    all_serve(&site)?;
    loses(&site, "without power", Vm::power_cut)?;
    site.cluster.no_packet_left()?;
    site.passed();
    Ok(())
}

fn all_serve(site: &Site) -> Result<()> {
    let (node, all) = (site.vm("n0")?, site.cluster.apiservers(&[]));
    wait_for_servers(node, Duration::from_secs(360), &all)
}

/// Its rules and lvscare's table are different things, and it must not clean what is not its own.
fn kube_proxy_restarts(site: &Site) -> Result<()> {
    let node = site.vm("n0")?;
    let asking = Asking::start(node, DOMAIN)?;
    let old = node.ok("pgrep -x kube-proxy")?;
    node.ok("pkill -KILL -x kube-proxy")?;
    node.ok_within(
        &format!(
            "until p=$(pgrep -x kube-proxy) && [ \"$p\" != '{}' ]; do sleep 0.5; done",
            old.trim()
        ),
        Duration::from_secs(180),
    )
    .context("kubelet did not start kube-proxy again")?;
    asking.wait_for_requests(Duration::from_secs(120), 20)?;
    let report = asking.stop()?;
    println!("kube-proxy restarted, new requests: {report}");
    ensure!(
        report.requests.iter().all(|request| request.is_ok()),
        "{report}"
    );
    // On a slow host an apiserver may be late and drained meanwhile; a cleaned table has nobody in it.
    ensure!(
        report.tables.iter().all(|(_, servers)| !servers.is_empty()),
        "the table was cleaned: {report}"
    );
    Ok(())
}

/// Strikes the master kubelet is connected to, and waits until neither the table nor kubelet has anything of it.
fn loses(site: &Site, fault: &str, strike: impl FnOnce(&Vm) -> Result<()>) -> Result<()> {
    let node = site.vm("n0")?;
    let flow = KubeletFlow::start(node, VIP)?;
    let asking = Asking::start(node, DOMAIN)?;
    let dead = flow.server()?;
    let master = master_at(site, &dead)?;
    let since = uptime(node)?;
    strike(site.vm(&master)?)?;
    let server = format!("{dead}:6443");
    asking.wait_for_table(Duration::from_secs(120), &server, false)?;
    flow.wait_for_another(Duration::from_secs(240), &dead)?;
    asking.wait_for_requests(Duration::from_secs(120), 20)?;
    let (report, seen) = (asking.stop()?, flow.stop()?);
    let back = back_after(&seen, since, &dead);
    println!("{master} {fault}: kubelet connected again after {back:?} s; new requests: {report}");
    ensure!(back.is_some(), "kubelet was never back: {seen:?}");
    ensure!(report.failed_without(&server).is_empty(), "{report}");
    Ok(())
}

fn master_at(site: &Site, address: &str) -> Result<String> {
    let mut masters = site.cluster.masters();
    let found = masters.find(|master| master.address.to_string() == address);
    Ok(found
        .with_context(|| format!("no master has the address {address}"))?
        .name
        .clone())
}

fn uptime(vm: &Vm) -> Result<f64> {
    let text = vm.ok("cut -d' ' -f1 /proc/uptime")?;
    text.trim()
        .parse()
        .with_context(|| format!("`{text}` is no time"))
}
