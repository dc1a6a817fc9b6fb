//! Our files against netplan's own generator, and what is refused.
#![allow(
    clippy::disallowed_methods,
    reason = "a test arranges files and runs programs as it likes"
)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;

fn read(text: &str) -> Network {
    Network::parse("network-config", text)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .0
        .expect("a network")
}

fn errors(text: &str) -> String {
    Network::parse("network-config", text)
        .expect_err(text)
        .to_string()
}

/// `line` with the spellings of booleans and addresses that we write. networkd clears host bits of
/// destinations as we do.
fn canonical(line: &str) -> String {
    let Some((key, value)) = line.split_once('=') else {
        return line.to_owned();
    };
    let value = match (key, value) {
        (_, "yes") | ("AllSlavesActive", "1") => "true".to_owned(),
        (_, "no") => "false".to_owned(),
        ("Destination", net) => net
            .parse::<ipnet::IpNet>()
            .map_or(net.to_owned(), |net| net.trunc().to_string()),
        (_, text) => match (
            text.parse::<ipnet::IpNet>(),
            text.parse::<std::net::IpAddr>(),
        ) {
            (Ok(net), _) => net.to_string(),
            (_, Ok(address)) => address.to_string(),
            _ => text.to_owned(),
        },
    };
    format!("{key}={value}")
}

/// A file as a set of `section: settings`, with the differences we intend (`networkd`) and the
/// spellings that mean the same taken out.
fn settings(file: &str, text: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for section in text
        .split("\n[")
        .map(|section| section.trim_start_matches('['))
    {
        let Some((name, body)) = section.split_once("]\n") else {
            continue;
        };
        let by_address = name == "Match" && body.contains("PermanentMACAddress=");
        let mut lines: Vec<String> = Vec::new();
        for line in body.lines().filter(|line| !line.is_empty()) {
            let line = canonical(line);
            match (name, line.as_str()) {
                ("Match", line) if by_address && !line.starts_with("PermanentMACAddress=") => {}
                (
                    _,
                    // The default of networkd.
                    "ClientIdentifier=duid"
                    // Ours for addresses of the link, beside the one for advertised ones.
                    | "IPv6LinkLocalAddressGenerationMode=eui64"
                    | "IPv6LinkLocalAddressGenerationMode=stable-privacy"
                    | "UseHostname=false"
                    | "RequiredForOnline=false"
                    | "UseGateway=false"
                    | "UseRoutePrefix=false"
                    | "IPv6AcceptRA=false",
                ) => {}
                ("Network", gateway) if gateway.starts_with("Gateway=") => {
                    all.insert(format!("{file} Route: {gateway}"));
                }
                ("Route" | "RoutingPolicyRule", line) => {
                    let host = line
                        .strip_suffix("/32")
                        .or_else(|| line.strip_suffix("/128"));
                    lines.push(host.unwrap_or(line).to_owned());
                }
                // The older name of `Token` in another section.
                ("Network", line) if line.starts_with("IPv6Token=") => {
                    all.insert(format!("{file} DHCP: {}", line.trim_start_matches("IPv6")));
                }
                // netplan writes the old section, which systemd reads into all three.
                ("DHCP" | "DHCPv4" | "DHCPv6" | "IPv6AcceptRA", line) => {
                    all.insert(format!("{file} DHCP: {line}"));
                }
                (name, line) => {
                    all.insert(format!("{file} {name}: {line}"));
                }
            }
        }
        if !lines.is_empty() {
            lines.sort();
            all.insert(format!("{file} {name}: {}", lines.join(" ")));
        }
    }
    all
}

/// `<case>.networkd` beside `<case>.yaml` is what `/usr/libexec/netplan/generate --root-dir` of
/// Debian 13 (netplan 1.1.2) makes of it, each file behind a line `### <name>`.
/// FIRSTLIGHT_NETPLAN_CASES names a folder of more such pairs, for those whose licence keeps them
/// out of this tree; `netplan_pairs.sh` makes it.
#[test]
fn networkd_units_match_netplan_generator() {
    let ours = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/netplan"
    ));
    let more = std::env::var_os("FIRSTLIGHT_NETPLAN_CASES").map(PathBuf::from);
    let mut compared = 0;
    let mut differences = Vec::new();
    for folder in std::iter::once(ours).chain(more) {
        for entry in std::fs::read_dir(&folder).expect("the folder of cases") {
            let case = entry.expect("a case").path();
            let expected = case.with_extension("networkd");
            if case.extension().is_none_or(|extension| extension != "yaml") || !expected.exists() {
                continue;
            }
            let network =
                match Network::parse("case", &std::fs::read_to_string(&case).expect("the case")) {
                    Ok((network, _)) => network.expect("a network"),
                    Err(errors) => {
                        differences.push(format!("{}: refused:\n{errors}", case.display()));
                        continue;
                    }
                };
            let expected = std::fs::read_to_string(&expected).expect("netplan's files");
            let theirs: BTreeSet<String> = expected
                .split("### ")
                .filter_map(|file| file.split_once('\n'))
                .flat_map(|(name, text)| settings(name, text))
                .collect();
            let ours: BTreeSet<String> = network
                .to_networkd()
                .iter()
                .flat_map(|(name, text)| settings(name.trim_start_matches("10-firstlight-"), text))
                .collect();
            for missing in theirs.difference(&ours) {
                differences.push(format!("{}: only netplan: {missing}", case.display()));
            }
            for extra in ours.difference(&theirs) {
                differences.push(format!("{}: only ours: {extra}", case.display()));
            }
            compared += 1;
        }
    }
    assert!(compared >= 5, "only {compared} cases");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn invalid_network_settings_are_reported() {
    insta::assert_snapshot!(errors(
        "network:
  version: 2
  renderer: NetworkManager
  ethernets:
    a name with blanks: {}
    eth0:
      set-name: lan
      addresses: [10.0.0.1, 10.0.0.2/99, 10.0.0.3/24]
      routes: [{to: 10.0.0.1/8, via: 10.0.0.9}, {to: default}, {to: fd00::/8, via: 10.0.0.1}]
      mtu: 10
      interfaces: [eth1]
      dhpc4: true
    eth1: {match: {macaddress: 52:54:00:12:34:5x}}
    eth2: {match: {}}
  bonds:
    bond0: {interfaces: [eth1, eth9], parameters: {mode: 802.3ad, stp: true}}
    bond1: {interfaces: [eth1]}
  vlans:
    eth0: {id: 5000, link: nowhere}
    v2: {}
  wifis: {}
"
    ));
}

#[test]
fn empty_and_disabled_config_have_no_network() {
    for text in [
        "",
        "# nothing\n",
        "network:\n",
        "network: {config: disabled}\n",
        "config: disabled\n",
    ] {
        let (network, _) =
            Network::parse("network-config", text).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(network.is_none(), "{text}");
    }
}

#[test]
fn lenient_client_spellings_are_parsed() {
    let network = read(
        "version: 2
ethernets:
  e0:
    match: {macaddress: 52-54-00-AB-CD-EF}
    addresses: [192.168.1.10/255.255.255.0]
    nameservers: {addresses: 8.8.8.8, search: a.example}
    routes: [{to: 0.0.0.0/0, via: 192.168.1.1}]
",
    );
    insta::assert_snapshot!(network.to_networkd()[0].1);
}

#[test]
fn written_network_round_trips() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/netplan");
    for case in [
        "everything",
        "firstlight-static",
        "lima",
        "policy",
        "virtual",
    ] {
        let text = std::fs::read_to_string(format!("{folder}/{case}.yaml")).expect("the case");
        let network = read(&text);
        assert_eq!(read(&yaml::to_string(&network)), network, "{case}");
    }
}

#[test]
fn links_with_static_addresses_take_no_router_advertisements() {
    for (device, accepts) in [
        ("addresses: [10.0.0.5/24]", Some("false")),
        ("addresses: [fd00::5/64], gateway6: fd00::1", Some("false")),
        ("addresses: [10.0.0.5/24], accept-ra: true", Some("true")),
        ("addresses: [10.0.0.5/24], accept-ra: false", Some("false")),
        ("addresses: [10.0.0.5/24], dhcp6: true", None),
        ("dhcp4: true", None),
        ("optional: true", None),
    ] {
        let text = format!("version: 2\nethernets:\n  eth0: {{{device}}}\n");
        let files = read(&text).to_networkd();
        let line = files[0]
            .1
            .lines()
            .find_map(|line| line.strip_prefix("IPv6AcceptRA="));
        assert_eq!(line, accepts, "{device}");
    }
}

#[test]
fn invalid_virtual_devices_are_reported() {
    insta::assert_snapshot!(errors(
        "network:
  version: 2
  ethernets:
    e0: {table: 5, peer: e1, mode: gre, link: e1, ra-overrides: {use-domains: maybe}}
    e1: {infiniband-mode: fast}
  dummy-devices:
    d0: {interfaces: [e0], port: 1}
  virtual-ethernets:
    v0: {}
    v1: {peer: v2}
    v2: {peer: v3}
  tunnels:
    t0: {}
    t1: {mode: wireguard, keys: {private: c2VjcmV0}, peers: []}
    t2: {mode: gre, remote: fd00::1, id: 5, port: 6}
    t3: {mode: ipip, key: 7}
    t4: {mode: vxlan, id: 0, link: nowhere, port-range: [9, 3], checksums: [tcp]}
    t5: {mode: grre, key: c2VjcmV0}
    t6: {mode: isatap}
  vrfs:
    r0: {interfaces: [e0]}
    r1: {table: 7, interfaces: [e0], routes: [{to: default, via: 10.0.0.1, table: 8}]}
"
    ));
}
