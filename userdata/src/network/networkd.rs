//! Converts a network to unit files of systemd-networkd.
//!
//! The tests compare them with the output of netplan's generator. Four differences are deliberate:
//! a link with static addresses only takes no router advertisements unless `accept-ra` says so;
//! DHCP never sets the host name, because it is the Kubernetes node name; an optional device is
//! marked in its `.network` file; and a device with `set-name` is matched under its old name too,
//! which it has on the first boot until udev renames it.

mod netdev;

use std::fmt::Display;

use ipnet::IpNet;

use super::check::kinds_of;
use super::{Destination, Device, Network, Overrides};
use netdev::netdev;

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
                files.push((format!("{name}.netdev"), netdev(kind, id, device)));
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
    routes(&mut unit, device);
    if device.dhcp4 {
        dhcp(&mut unit, "DHCPv4", device, device.dhcp4_overrides.as_ref());
    }
    if device.dhcp6 {
        dhcp(&mut unit, "DHCPv6", device, device.dhcp6_overrides.as_ref());
    }
    if device.dhcp4 || device.dhcp6 {
        router_advertisements(&mut unit, device);
    } else if device.ipv6_address_token.is_some() {
        unit.section("IPv6AcceptRA");
    }
    unit.maybe(
        "Token",
        device
            .ipv6_address_token
            .map(|token| format!("static:{token}")),
    );
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

fn routes(unit: &mut Unit, device: &Device) {
    for gateway in device
        .gateway4
        .iter()
        .map(ToString::to_string)
        .chain(device.gateway6.iter().map(ToString::to_string))
    {
        unit.section("Route").set("Gateway", gateway);
    }
    for route in &device.routes {
        unit.section("Route");
        match route.to {
            Destination::Net(net) => drop(unit.set("Destination", net)),
            Destination::Default if route.via.is_some_and(|via| via.is_ipv6()) => {
                unit.set("Destination", "::/0");
            }
            Destination::Default => drop(unit.set("Destination", "0.0.0.0/0")),
        }
        unit.maybe("Gateway", route.via);
        if route.on_link {
            unit.set("GatewayOnLink", "true");
        }
        unit.maybe("PreferredSource", route.from)
            .maybe("Metric", route.metric)
            .maybe("Table", route.table)
            .maybe("Scope", route.scope.as_ref())
            .maybe(
                "Type",
                route.kind.as_ref().filter(|kind| *kind != "unicast"),
            )
            .maybe("MTUBytes", route.mtu);
    }
    for rule in &device.routing_policy {
        let net = |end: Option<Destination>| match end {
            Some(Destination::Net(net)) => Some(net.to_string()),
            Some(Destination::Default) => Some(IpNet::default().to_string()),
            None => None,
        };
        unit.section("RoutingPolicyRule");
        unit.maybe("Priority", rule.priority)
            .maybe("Table", rule.table)
            .maybe("FirewallMark", rule.mark)
            .maybe("TypeOfService", rule.type_of_service)
            .maybe("From", net(rule.from))
            .maybe("To", net(rule.to));
    }
}

/// IPv6 default routes come from router advertisements, never from DHCPv6, so overrides of routes
/// belong here.
fn router_advertisements(unit: &mut Unit, device: &Device) {
    let (v4, v6) = (
        device.dhcp4_overrides.as_ref(),
        device.dhcp6_overrides.as_ref(),
    );
    let overrides = v6.filter(|_| device.dhcp6).or(v4);
    unit.section("IPv6AcceptRA")
        .set(
            "RouteMetric",
            overrides.and_then(|o| o.route_metric).unwrap_or(100),
        )
        .maybe("UseDNS", overrides.and_then(|o| o.use_dns))
        .maybe("UseDomains", overrides.and_then(|o| o.use_domains.as_ref()));
    if device.dhcp6 {
        unit.set("UseMTU", v6.and_then(|o| o.use_mtu).unwrap_or(true));
    }
    if device.dhcp6 && v6.and_then(|o| o.use_routes) == Some(false) {
        unit.set("UseGateway", "false")
            .set("UseRoutePrefix", "false");
    }
}

fn dhcp(unit: &mut Unit, section: &'static str, device: &Device, overrides: Option<&Overrides>) {
    let none = Overrides::default();
    let o = overrides.unwrap_or(&none);
    let ipv4 = section == "DHCPv4";
    unit.section(section);
    if ipv4 {
        unit.maybe("ClientIdentifier", device.dhcp_identifier.as_ref());
        // netplan's own default, so that a DHCP route loses to a static one without metric.
        unit.set("RouteMetric", o.route_metric.unwrap_or(100));
        unit.set("UseMTU", o.use_mtu.unwrap_or(true));
        unit.maybe("UseRoutes", o.use_routes);
    }
    unit.maybe("UseDNS", o.use_dns)
        .maybe("UseDomains", o.use_domains.as_ref())
        .maybe("UseNTP", o.use_ntp)
        // The node's name is Kubernetes' name for it: a lease must not change it.
        .set("UseHostname", o.use_hostname.unwrap_or(false))
        .maybe("SendHostname", o.send_hostname)
        .maybe("Hostname", o.hostname.as_ref());
}
