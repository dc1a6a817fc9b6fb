//! The route in test network namespaces, verified with iproute2. Needs root and `ip`; skips
//! otherwise, which CI rejects.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

use std::net::IpAddr;
use std::process::Command;

use lvscare::apply::put_route;
use lvscare::route;
use nix::sched::{CloneFlags, unshare};

fn ip(arguments: &str) -> anyhow::Result<String> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()?;
    anyhow::ensure!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Two networks: the servers are in the second, and the default route is in the first.
fn node() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    for line in [
        "link set lo up",
        "link add eth0 type veth peer name far0",
        "link add eth1 type veth peer name far1",
        "addr add 192.0.2.20/24 dev eth0",
        "addr add 198.51.100.20/24 dev eth1",
        "addr add fd00::20/64 dev eth1 nodad",
        "link set eth0 up",
        "link set far0 up",
        "link set eth1 up",
        "link set far1 up",
        "route add default via 192.0.2.1",
    ] {
        ip(line)?;
    }
    Ok(())
}

/// Each test runs in its own thread and network namespace.
fn in_a_node(test: impl AsyncFnOnce(rtnetlink::Handle) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = node() {
            eprintln!("skipped: no network namespace: {error:#}");
            assert!(std::env::var_os("CI").is_none(), "{error:#}");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            test(handle).await;
        });
    });
    thread.join().unwrap();
}

fn addresses<const N: usize>(texts: [&str; N]) -> [IpAddr; N] {
    texts.map(|text| text.parse().unwrap())
}

#[test]
fn source_is_the_address_towards_the_apiservers() {
    in_a_node(async |handle| {
        let [vip, own] = addresses(["10.103.97.2", "198.51.100.20"]);
        let masters =
            ["198.51.100.10:6443", "198.51.100.11:6443"].map(|text| text.parse().unwrap());
        assert_eq!(
            put_route(&handle, vip, None, &masters).await.unwrap(),
            (Some(own), true)
        );
        assert_eq!(
            put_route(&handle, vip, None, &masters).await.unwrap(),
            (Some(own), false)
        );
        let shown = ip("-4 route show table local proto 76").unwrap();
        assert_eq!(
            shown.trim(),
            "local 10.103.97.2 dev lo scope host src 198.51.100.20"
        );
        let used = ip("route get 10.103.97.2").unwrap();
        assert!(
            used.contains("local 10.103.97.2 dev lo src 198.51.100.20"),
            "{used}"
        );
    });
}

#[test]
fn changed_address_changes_the_source() {
    in_a_node(async |handle| {
        let [vip, old, new] = addresses(["10.103.97.2", "198.51.100.20", "198.51.100.21"]);
        let masters = ["198.51.100.10:6443".parse().unwrap()];
        assert_eq!(
            put_route(&handle, vip, None, &masters).await.unwrap(),
            (Some(old), true)
        );
        ip("addr add 198.51.100.21/24 dev eth1").unwrap();
        ip("addr del 198.51.100.20/24 dev eth1").unwrap();
        ip("addr add 198.51.100.21/24 dev eth1").unwrap_or_default();
        assert_eq!(
            put_route(&handle, vip, None, &masters).await.unwrap(),
            (Some(new), true)
        );
        assert_eq!(route::current(&handle, vip).await.unwrap(), Some(new));
        assert_eq!(
            ip("-4 route show table local proto 76")
                .unwrap()
                .lines()
                .count(),
            1
        );
    });
}

#[test]
fn route_stays_when_no_apiserver_is_reachable() {
    in_a_node(async |handle| {
        let [vip, own] = addresses(["10.103.97.2", "198.51.100.20"]);
        let masters = ["198.51.100.10:6443".parse().unwrap()];
        ip("route del default").unwrap();
        put_route(&handle, vip, None, &masters).await.unwrap();
        ip("link set eth1 down").unwrap();
        assert_eq!(
            put_route(&handle, vip, None, &masters).await.unwrap(),
            (Some(own), false)
        );
    });
}

#[test]
fn ipv6_route_is_unique_and_removable() {
    in_a_node(async |handle| {
        let [vip, own, other] = addresses(["fd97::2", "fd00::20", "fd00::21"]);
        let masters = ["[fd00::10]:6443".parse().unwrap()];
        assert_eq!(
            put_route(&handle, vip, None, &masters).await.unwrap(),
            (Some(own), true)
        );
        assert_eq!(
            put_route(&handle, vip, None, &masters).await.unwrap(),
            (Some(own), false)
        );
        ip("addr add fd00::21/64 dev eth1 nodad").unwrap();
        assert_eq!(
            put_route(&handle, vip, Some(other), &masters)
                .await
                .unwrap(),
            (Some(other), true)
        );
        assert_eq!(
            ip("-6 route show table local proto 76")
                .unwrap()
                .lines()
                .count(),
            1
        );
        route::remove(&handle, vip).await.unwrap();
        route::remove(&handle, vip).await.unwrap();
        assert_eq!(route::current(&handle, vip).await.unwrap(), None);
    });
}

#[test]
fn foreign_route_to_the_vip_is_ignored() {
    in_a_node(async |handle| {
        let [vip] = addresses(["192.0.2.99"]);
        assert_eq!(route::current(&handle, vip).await.unwrap(), None);
        ip("addr add 192.0.2.99/32 dev eth0").unwrap();
        assert_eq!(route::current(&handle, vip).await.unwrap(), None);
        route::remove(&handle, vip).await.unwrap();
        let own = ip("-4 addr show dev eth0").unwrap();
        assert!(own.contains("192.0.2.99/32"), "{own}");
        assert!(
            ip("route show table local").unwrap().contains("192.0.2.99"),
            "their route was removed"
        );
    });
}
