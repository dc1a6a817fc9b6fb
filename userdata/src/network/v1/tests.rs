//! Version 1 of real clients gives the network that version 2 would.

use super::*;

fn read(text: &str) -> Network {
    match Network::parse("network-config", text) {
        Ok((network, _)) => network.expect("a network"),
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

fn errors(text: &str) -> String {
    Network::parse("network-config", text)
        .expect_err(text)
        .to_string()
}

fn assert_same(first: &str, second: &str) {
    let first = read(&format!("version: 1\nconfig:\n{first}"));
    assert_eq!(first, read(&format!("version: 2\n{second}")));
}

#[test]
fn proxmox_and_openstack_name_their_ports() {
    assert_same(
        "- {type: physical, name: eth0, mac_address: 'BC:24:11:00:00:01', subnets: [{type: static, \
         address: 10.0.0.5, netmask: 255.255.255.0, gateway: 10.0.0.1}]}\n\
         - {type: nameserver, address: [10.0.0.1], search: [example.com]}\n",
        "ethernets: {eth0: {match: {macaddress: 'bc:24:11:00:00:01'}, set-name: eth0, addresses: \
         [10.0.0.5/24], routes: [{to: default, via: 10.0.0.1}], nameservers: {addresses: \
         [10.0.0.1], search: [example.com]}}}\n",
    );
}

#[test]
fn every_type_of_subnet_is_read() {
    assert_same(
        "- type: physical\n  name: a\n  mtu: '9000'\n  accept-ra: true\n  subnets:\n  - type: dhcp\n  \
         - {type: static6, address: '2001:db8::5', netmask: 'ffff:ffff::', gateway: '2001:db8::1', \
         dns_nameservers: '2001:db8::53', dns_search: a.example b.example, routes: [{network: \
         '2001:db8:1::', netmask: 48, gateway: '2001:db8::2', metric: 5}]}\n  - type: \
         ipv6_dhcpv6-stateful\n- {type: physical, name: b, subnets: [{type: ipv6_slaac}]}\n- {type: \
         physical, name: c, subnets: [{type: manual, control: manual}]}\n- {type: loopback, name: \
         lo, subnets: [{type: loopback}]}\n",
        "ethernets:\n  a: {mtu: 9000, accept-ra: true, dhcp4: true, dhcp6: true, addresses: \
         ['2001:db8::5/32'], routes: [{to: default, via: '2001:db8::1'}, {to: '2001:db8:1::/48', \
         via: '2001:db8::2', metric: 5}], nameservers: {addresses: ['2001:db8::53'], search: \
         [a.example, b.example]}}\n  b: {accept-ra: true}\n  c: {activation-mode: manual}\n",
    );
}

#[test]
fn bonds_bridges_and_vlans_keep_their_parameters() {
    assert_same(
        "- {type: physical, name: a}\n- {type: physical, name: b}\n- {type: physical, name: c}\n\
         - {type: bond, name: bond0, mac_address: '02:00:00:00:00:01', bond_interfaces: [a, b], \
         params: {bond-mode: 4, bond_miimon: 100, bond-lacp-rate: 1, bond-xmit-hash-policy: \
         layer3+4, bond-min-links: 1, bond-slaves: none}, subnets: [{type: dhcp4}]}\n\
         - {type: vlan, name: bond0.7, vlan_link: bond0, vlan_id: 7, mtu: 1400}\n\
         - {type: bridge, name: br0, bridge_interfaces: [c], params: {bridge_stp: off, bridge_fd: \
         4, bridge_pathcost: [c 50], bridge_ports: none}}\n",
        "ethernets: {a: {}, b: {}, c: {}}\n\
         bonds: {bond0: {macaddress: '02:00:00:00:00:01', interfaces: [a, b], dhcp4: true, \
         parameters: {mode: 802.3ad, mii-monitor-interval: 100, lacp-rate: fast, \
         transmit-hash-policy: layer3+4, min-links: 1}}}\n\
         vlans: {bond0.7: {link: bond0, id: 7, mtu: 1400}}\n\
         bridges: {br0: {interfaces: [c], parameters: {stp: false, forward-delay: 4, path-cost: \
         {c: 50}}}}\n",
    );
}

#[test]
fn routes_and_name_servers_of_no_device_find_theirs() {
    assert_same(
        "- {type: route, destination: 10.0.0.0/8, gateway: 192.168.7.1, metric: 3}\n\
         - {type: physical, name: a, subnets: [{type: static, address: 192.168.7.5/24}]}\n\
         - {type: physical, name: b, subnets: [{type: dhcp}]}\n\
         - {type: nameserver, interface: b, address: 192.0.2.1}\n",
        "ethernets: {a: {addresses: [192.168.7.5/24], routes: [{to: 10.0.0.0/8, via: 192.168.7.1, \
         metric: 3}]}, b: {dhcp4: true, nameservers: {addresses: 192.0.2.1}}}\n",
    );
}

#[test]
fn gateway_outside_the_subnet_is_on_the_link() {
    assert_same(
        "- {type: physical, name: a, subnets: [{type: static, address: 192.0.2.5, netmask: \
         255.255.255.255, gateway: 198.51.100.1}]}\n",
        "ethernets: {a: {addresses: [192.0.2.5/32], routes: [{to: default, via: 198.51.100.1, \
         on-link: true}]}}\n",
    );
}

#[test]
fn wrapped_and_disabled_are_understood() {
    let text = "network:\n  version: 1\n  config:\n  - {type: physical, name: a}\n";
    assert!(read(text).ethernets.contains_key("a"));
    assert!(Network::is_disabled(
        "network: {version: 1, config: disabled}\n"
    ));
}

#[test]
fn mistakes_have_their_place() {
    let text = "version: 1
config:
- {type: physical, name: a, mac_address: 52:54, subnets: [{type: dhpc}]}
- {type: wifi, name: w}
- {name: n}
- {type: physical}
- {type: physical, name: b, subnets: [{type: static, address: 10.0.0.300}]}
- {type: bond, name: c, params: {bond-mod: 1, bond-min-links: few}}
- {type: vlan, name: v, vlan_link: nowhere, vlan_id: x}
- {type: route, destination: 10.0.0.0/8, gateway: 192.0.2.1}
- {type: nameserver, address: dns, interface: z}
- {type: physical, name: d, mac-address: '52:54:00:00:00:01'}
";
    insta::assert_snapshot!(errors(text));
}
