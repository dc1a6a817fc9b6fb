//! Converts a network to unit files of systemd-networkd.
//!
//! The tests compare them with the output of netplan's generator. Four differences are deliberate:
//! a link with static addresses only takes no router advertisements without `accept-ra: true`;
//! DHCP never sets the host name, because it is the Kubernetes node name; an optional device is
//! marked in its `.network` file; and a device with `set-name` is matched under its old name too,
//! which it has on the first boot until udev renames it.

mod dynamic;
pub(super) mod netdev;
mod routes;

use std::fmt::Display;

use ipnet::IpNet;

use super::check::kinds_of;
use super::{Device, Network};
use dynamic::{dhcp, router_advertisements};
use netdev::netdev;
use routes::routes;

/// An ini file, section by section; empty sections are not written.
#[derive(Default)]
struct Unit {
    text: String,
    section: Option<&'static str>,
}

impl Unit {
    fn section(&mut self, name: &'static str) -> &mut Self {
        self.section = Some(name);
        self
    }

    fn set(&mut self, key: &str, value: impl Display) -> &mut Self {
        if let Some(section) = self.section.take() {
            let blank = if self.text.is_empty() { "" } else { "\n" };
            self.text.push_str(&format!("{blank}[{section}]\n"));
        }
        self.text.push_str(&format!("{key}={value}\n"));
        self
    }

    fn maybe(&mut self, key: &str, value: Option<impl Display>) -> &mut Self {
        if let Some(value) = value {
            self.set(key, value);
        }
        self
    }
}

/// Every port with hardware, as in systemd's `89-ethernet.network.example`.
pub(super) fn fallback() -> (String, String) {
    let mut unit = Unit::default();
    unit.section("Match").set("Type", "ether").set("Kind", "!*");
    unit.section("Link").set("RequiredForOnline", "no");
    unit.section("Network")
        .set("DHCP", "yes")
        .set("LinkLocalAddressing", "ipv6");
    let device = Device {
        dhcp4: true,
        dhcp6: true,
        ..Device::default()
    };
    dhcp(&mut unit, "DHCPv4", &device, None);
    dhcp(&mut unit, "DHCPv6", &device, None);
    router_advertisements(&mut unit, &device);
    ("90-firstlight-dhcp.network".to_owned(), unit.text)
}

pub(super) fn files(network: &Network) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for (kind, devices) in kinds_of(network) {
        for (id, device) in devices {
            let name = format!("10-firstlight-{id}");
            if kind != "ethernets" {
                // One file makes both ends of a pair.
                if device.peer.as_ref().is_none_or(|peer| id < peer) {
                    files.push((format!("{name}.netdev"), netdev(kind, id, device)));
                }
            } else if needs_link(device) {
                files.push((format!("{name}.link"), link(id, device)));
            }
            files.push((
                format!("{name}.network"),
                interface(network, kind, id, device),
            ));
        }
    }
    files
}

fn offloads(device: &Device) -> [(&'static str, Option<bool>); 7] {
    [
        ("ReceiveChecksumOffload", device.receive_checksum_offload),
        ("TransmitChecksumOffload", device.transmit_checksum_offload),
        ("TCPSegmentationOffload", device.tcp_segmentation_offload),
        ("TCP6SegmentationOffload", device.tcp6_segmentation_offload),
        (
            "GenericSegmentationOffload",
            device.generic_segmentation_offload,
        ),
        ("GenericReceiveOffload", device.generic_receive_offload),
        ("LargeReceiveOffload", device.large_receive_offload),
    ]
}

fn needs_link(device: &Device) -> bool {
    device.set_name.is_some()
        || device.mtu.is_some()
        || device.wakeonlan
        || offloads(device).iter().any(|(_, value)| value.is_some())
}

/// Renaming is udev's, before the link is up: networkd cannot do it later.
fn link(id: &str, device: &Device) -> String {
    let mut unit = Unit::default();
    unit.section("Match");
    match &device.matching {
        None => {
            unit.set("OriginalName", id);
        }
        Some(matching) => {
            unit.maybe("PermanentMACAddress", matching.macaddress.as_ref());
            unit.maybe("OriginalName", matching.name.as_ref());
            if !matching.driver.is_empty() {
                unit.set("Driver", matching.driver.join(" "));
            }
        }
    }
    unit.section("Link");
    unit.maybe("Name", device.set_name.as_ref());
    unit.set("WakeOnLan", if device.wakeonlan { "magic" } else { "off" });
    unit.maybe("MTUBytes", device.mtu);
    for (key, value) in offloads(device) {
        unit.maybe(key, value);
    }
    unit.text
}

fn interface(network: &Network, kind: &str, id: &str, device: &Device) -> String {
    let mut unit = Unit::default();
    matching(&mut unit, id, device);
    unit.section("Link");
    unit.maybe("MTUBytes", device.mtu)
        .maybe("MACAddress", device.macaddress.as_ref());
    if device.optional || device.activation_mode.is_some() {
        unit.set("RequiredForOnline", "no");
    }
    match device.activation_mode.as_deref() {
        Some("off") => drop(unit.set("ActivationPolicy", "always-down")),
        Some(_) => drop(unit.set("ActivationPolicy", "manual")),
        None => {}
    }
    let bond = network
        .bonds
        .iter()
        .find(|(_, bond)| bond.interfaces.iter().any(|member| member == id));
    let bridge = network
        .bridges
        .iter()
        .find(|(_, bridge)| bridge.interfaces.iter().any(|member| member == id));
    unit.section("Network");
    match (device.dhcp4, device.dhcp6) {
        (true, true) => drop(unit.set("DHCP", "yes")),
        (true, false) => drop(unit.set("DHCP", "ipv4")),
        (false, true) => drop(unit.set("DHCP", "ipv6")),
        (false, false) => {}
    }
    unit.set(
        "LinkLocalAddressing",
        link_local(device, bond.is_some() || bridge.is_some()),
    );
    unit.maybe("IPv6AcceptRA", accepts_ra(device))
        .maybe("IPv6PrivacyExtensions", device.ipv6_privacy)
        .maybe("IPv6MTUBytes", device.ipv6_mtu)
        .maybe(
            "IPv6LinkLocalAddressGenerationMode",
            device.ipv6_address_generation.as_ref(),
        );
    if device.emit_lldp {
        unit.set("EmitLLDP", "true");
    }
    if device.critical {
        unit.set("KeepConfiguration", "true");
    }
    let plain = |net: &&IpNet| !device.address_options.contains_key(*net);
    for address in device.addresses.iter().filter(plain) {
        unit.set("Address", address);
    }
    if let Some(servers) = &device.nameservers {
        for address in &servers.addresses {
            unit.set("DNS", address);
        }
        if !servers.search.is_empty() {
            unit.set("Domains", servers.search.join(" "));
        }
    }
    if kind != "ethernets" || device.ignore_carrier {
        unit.set("ConfigureWithoutCarrier", "yes");
    }
    unit.maybe("Bond", bond.map(|(id, _)| id))
        .maybe("Bridge", bridge.map(|(id, _)| id));
    if bond.is_some_and(|(_, bond)| {
        bond.parameters
            .as_ref()
            .is_some_and(|p| p.primary.as_deref() == Some(id))
    }) {
        unit.set("PrimarySlave", "true");
    }
    for (vlan, _) in network
        .vlans
        .iter()
        .filter(|(_, vlan)| vlan.link.as_deref() == Some(id))
    {
        unit.set("VLAN", vlan);
    }
    let of_vrf = |(_, vrf): &(&String, &Device)| vrf.interfaces.iter().any(|member| member == id);
    unit.maybe("VRF", network.vrfs.iter().find(of_vrf).map(|(id, _)| id));
    let vxlans = network.tunnels.iter();
    for (vxlan, _) in vxlans.filter(|(_, tunnel)| tunnel.link.as_deref() == Some(id)) {
        unit.set("VXLAN", vxlan);
    }
    if let Some((_, bridge)) = bridge {
        port(&mut unit, id, device, bridge);
    }
    for (net, options) in &device.address_options {
        unit.section("Address").set("Address", net);
        unit.maybe("Label", options.label.as_ref());
        if options.deprecated {
            unit.set("PreferredLifetime", 0);
        }
    }
    routes(&mut unit, device, device.table);
    if device.dhcp4 {
        dhcp(&mut unit, "DHCPv4", device, device.dhcp4_overrides.as_ref());
    }
    if device.dhcp6 {
        dhcp(&mut unit, "DHCPv6", device, device.dhcp6_overrides.as_ref());
    }
    router_advertisements(&mut unit, device);
    // `kernel` leaves the mode as it is.
    let infiniband = device.infiniband_mode.as_ref();
    unit.section("IPoIB")
        .maybe("Mode", infiniband.filter(|mode| *mode != "kernel"));
    unit.text
}

/// A member of `bridge`.
fn port(unit: &mut Unit, id: &str, device: &Device, bridge: &Device) {
    let parameters = bridge.parameters.as_ref();
    unit.section("Bridge");
    unit.maybe("Cost", parameters.and_then(|p| p.path_cost.get(id)))
        .maybe("Priority", parameters.and_then(|p| p.port_priority.get(id)))
        .maybe("HairPin", device.hairpin)
        .maybe("NeighborSuppression", device.neigh_suppress)
        .maybe("Learning", device.port_mac_learning);
}

/// By the burnt-in address: a bond or VLAN on top of the device shows the same current one.
fn matching(unit: &mut Unit, id: &str, device: &Device) {
    unit.section("Match");
    let Some(matching) = &device.matching else {
        unit.set("Name", id);
        return;
    };
    if !matching.driver.is_empty() {
        unit.set("Driver", matching.driver.join(" "));
    }
    unit.maybe("PermanentMACAddress", matching.macaddress.as_ref());
    match (&device.set_name, &matching.name) {
        (None, None) => {}
        (None, Some(name)) => drop(unit.set("Name", name)),
        (Some(new), Some(old)) => drop(unit.set("Name", format!("{new} {old}"))),
        // A VLAN on top has this permanent address too, but it is of a kind.
        (Some(_), None) => drop(unit.set("Kind", "!*")),
    }
}

/// A link with nothing but static addresses takes no router advertisement, which any machine of its
/// network can send: it would bring addresses, routes and name servers that the document does not
/// name. `None`: as systemd-networkd decides.
fn accepts_ra(device: &Device) -> Option<bool> {
    let is_static = !device.addresses.is_empty()
        && !device.dhcp4
        && !device.dhcp6
        && device.ipv6_address_token.is_none();
    device.accept_ra.or(is_static.then_some(false))
}

fn link_local(device: &Device, enslaved: bool) -> &'static str {
    let has = |family: &str| {
        device
            .link_local
            .iter()
            .flatten()
            .any(|wanted| wanted == family)
    };
    match &device.link_local {
        None if enslaved => "no",
        None => "ipv6",
        Some(_) => match (has("ipv4"), has("ipv6")) {
            (true, true) => "yes",
            (true, false) => "ipv4",
            (false, true) => "ipv6",
            (false, false) => "no",
        },
    }
}
