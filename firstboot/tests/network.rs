//! The network: documents of the field, each with the result that netplan or cloud-init gives it.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

mod common;

use common::host::Host;

/// All files for systemd-networkd, each after its name.
fn units(host: &Host) -> String {
    let folder = host.root.path().join("etc/systemd/network");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().file_name()).collect())
        .unwrap_or_default();
    names.sort();
    let files = names.iter().map(|name| {
        let name = name.to_string_lossy();
        format!(
            "### {name}\n{}",
            host.read(&format!("/etc/systemd/network/{name}"))
        )
    });
    files.collect()
}

fn booted(case: &str) -> String {
    let host = Host::new(case);
    host.boot();
    units(&host)
}

#[test]
fn addresses_have_labels_and_lifetimes() {
    insta::assert_snapshot!(booted("net-address-options"));
}

#[test]
fn bond_watches_its_targets_by_arp() {
    insta::assert_snapshot!(booted("net-bond-arp"));
}

#[test]
fn times_of_bonds_have_units() {
    insta::assert_snapshot!(booted("net-bond-time-suffix"));
}

#[test]
fn ports_of_a_bridge_have_costs_and_priorities() {
    insta::assert_snapshot!(booted("net-bridge-ports"));
}

#[test]
fn quoted_booleans_and_numbers_are_read() {
    insta::assert_snapshot!(booted("net-quoted-scalars"));
}

#[test]
fn critical_interface_keeps_its_addresses() {
    insta::assert_snapshot!(booted("net-ra"));
}

#[test]
fn device_has_renderer_offloads_and_activation() {
    insta::assert_snapshot!(booted("net-renderer-device"));
}

#[test]
fn renderer_of_a_kind_is_read() {
    let host = Host::with("hostname: a\n");
    let text = |renderer: &str| {
        format!("version: 2\nethernets:\n  renderer: {renderer}\n  eth0: {{dhcp4: true}}\n")
    };
    host.document("network-config", &text("networkd"));
    assert!(!host.boot().text.contains("`renderer`"));
    host.document("network-config", &text("NetworkManager"));
    let run = host.boot();
    assert!(
        run.text
            .contains("network-config:3:3: warning: `renderer` is ignored"),
        "{}",
        run.text
    );
    assert!(!units(&host).contains("renderer"));
}

#[test]
fn keys_that_are_not_done_are_refused_by_name() {
    let host = Host::with("hostname: a\n");
    for (text, place) in [
        ("wifis: {w0: {}}", "2:1: error: `wifis` is not supported"),
        (
            "tunnels: {t0: {mode: wireguard}}",
            "2:22: error: tunnels of the mode `wireguard` are not supported",
        ),
        (
            "ethernets: {e0: {macaddress: random}}",
            "2:30: error: this policy for the MAC address is not supported",
        ),
        (
            "ethernets: {e0: {wakeonwlan: [any]}}",
            "2:18: error: `wakeonwlan` is not supported",
        ),
        (
            "ethernets: {e0: {link: e1}, e1: {virtual-function-count: 2}}",
            "2:34: error: `virtual-function-count` is not supported",
        ),
        (
            "ethernets: {e0: {dhcp5: true}}",
            "2:18: error: unknown key `dhcp5`",
        ),
    ] {
        host.document("network-config", &format!("version: 2\n{text}\n"));
        let run = host.run();
        assert_eq!(run.status, 3, "{text}: {}", run.text);
        assert!(run.text.contains(place), "{text}: {}", run.text);
    }
}

#[test]
fn options_of_addresses_are_checked() {
    let host = Host::with("hostname: a\n");
    for (options, message) in [
        ("lifetime: 5", "3:44: error: expected `0` or `forever`"),
        (
            "tag: x",
            "3:34: error: unknown key (not shown here, because it may be a secret); known keys here",
        ),
        ("label: 'a b'", "3:41: error: a label is a word"),
    ] {
        let text = format!(
            "version: 2\nethernets:\n  e: {{addresses: [{{10.0.0.1/24: {{{options}}}}}]}}\n"
        );
        host.document("network-config", &text);
        let run = host.run();
        assert_eq!(run.status, 3, "{}", run.text);
        assert!(run.text.contains(message), "{}", run.text);
    }
}

#[test]
fn host_without_network_config_uses_dhcp() {
    let host = Host::new("no-network-config");
    host.boot();
    insta::assert_snapshot!(units(&host));
    // An empty file says as little as none.
    for empty in ["# nothing\n", "{}\n", "network:\n", "network: {}\n"] {
        host.document("network-config", empty);
        host.boot();
        assert!(units(&host).contains("DHCP=yes"), "{empty}");
    }
    host.document("network-config", "network: {config: disabled}\n");
    host.boot();
    assert_eq!(units(&host), "");
    // A configuration replaces it.
    host.document(
        "network-config",
        "version: 2\nethernets: {eth0: {dhcp4: true}}\n",
    );
    host.boot();
    assert!(units(&host).starts_with("### 10-firstlight-eth0.network\n"));
    assert!(!units(&host).contains("90-firstlight"));
}

#[test]
fn renamed_link_is_configured_under_its_old_name() {
    insta::assert_snapshot!(booted("set-name-first-boot"));
    let host = Host::with("hostname: a\n");
    let nic = "{match: {name: enp1s0}, set-name: lan0, dhcp4: true}";
    host.document(
        "network-config",
        &format!("version: 2\nethernets: {{nic: {nic}}}\n"),
    );
    host.boot();
    assert!(
        units(&host).contains("\n[Match]\nName=lan0 enp1s0\n"),
        "{}",
        units(&host)
    );
}

const MACHINE: &str = "52:54:00:00:07:11";

#[test]
fn machine_is_known_by_its_permanent_address() {
    let host = Host::new("mac-override-second-boot");
    host.put("/sys/class/net/eth0/address", &format!("{MACHINE}\n"));
    host.boot();
    // The document gave the link another address.
    host.put("/sys/class/net/eth0/address", "02:00:00:00:00:77\n");
    host.boot();
    host.put("/sys/class/net/eth0/address", "02:00:00:00:00:78\n");
    assert_eq!(host.run().status, 3);
}

#[test]
fn member_of_a_bond_is_known_by_its_own_address() {
    let network = "version: 2
ethernets:
  a: {match: {macaddress: '52:54:00:00:07:10'}}
  b: {match: {macaddress: '52:54:00:00:07:11'}}
bonds:
  bond0: {interfaces: [a, b], dhcp4: true}
";
    let host = Host::new("mac-override-second-boot");
    host.document("network-config", network);
    // Both have the address of the first.
    host.put("/sys/class/net/eth0/address", "52:54:00:00:07:10\n");
    host.put("/sys/class/net/eth1/address", "52:54:00:00:07:10\n");
    host.put("/sys/class/net/eth1/device/vendor", "0x1af4\n");
    host.boot();
    host.document("network-config", "");
    assert_eq!(host.run().status, 3);
    let own = "/sys/class/net/eth1/bonding_slave/perm_hwaddr";
    host.put(own, &format!("{MACHINE}\n"));
    host.boot();
}

#[test]
fn file_called_hosts_is_not_a_folder_of_hosts() {
    let host = Host::new("hosts-file-in-seed");
    host.boot();
    assert_eq!(host.read("/etc/hostname"), "vm31\n");
}

#[test]
fn name_servers_of_leases_are_used() {
    let host = Host::new("dhcp-dns");
    host.boot();
    let valid = host.read("/etc/resolv.conf");
    assert!(
        valid.starts_with('#') && !valid.contains("nameserver"),
        "{valid}"
    );
    // The lease comes.
    host.put(
        "/run/systemd/netif/state",
        "DNS=192.0.2.53\nDOMAINS=example.net\n",
    );
    assert_eq!(host.firstboot(&["resolv-conf"]).status, 0);
    let text = host.read("/etc/resolv.conf");
    assert!(
        text.ends_with("\nnameserver 192.0.2.53\nsearch example.net\n"),
        "{text}"
    );
    host.boot();
    assert_eq!(host.read("/etc/resolv.conf"), text);
    let unit = "/etc/systemd/system/firstlight-resolv-conf.path";
    assert!(host.exists(unit));
    // Without leases nothing follows them.
    let network = "version: 2\nethernets: {eth0: {addresses: [192.0.2.10/24]}}\n";
    host.document("network-config", network);
    host.boot();
    assert!(!host.exists(unit) && host.read("/etc/resolv.conf") == text);
}
