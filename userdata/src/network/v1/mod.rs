//! `network-config`, version 1, read as the version 2 that it means.
//!
//! As cloud-init: a device with a MAC address is found by it and gets its name; a name server of no
//! interface belongs to all.

mod parameters;
mod raw;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Destination, Device, MacAddress, Match, Nameservers, Network, Route};
use values::{add, is_null, is_true, net, words};
use yaml::{Diagnostics, Parsed, Scalar, Spans};

/// `wrapped`: the text has the outer key `network`.
pub(super) fn parse(
    name: &str,
    text: &str,
    wrapped: bool,
) -> (Option<Parsed<Network>>, Diagnostics) {
    let (read, mut found) = if wrapped {
        let (read, found) = yaml::parse_leniently::<raw::Wrapped>(name, text, true);
        (read.map(|read| (read.value.network, read.spans)), found)
    } else {
        let (read, found) = yaml::parse_leniently::<raw::Top>(name, text, true);
        (read.map(|read| (read.value, read.spans)), found)
    };
    let Some((top, spans)) = read else {
        return (None, found);
    };
    let mut reader = Reader {
        spans: &spans,
        found: &mut found,
        network: Network::default(),
        shared: Nameservers::default(),
    };
    let prefix = if wrapped { "network." } else { "" };
    let mut rest = Vec::new();
    for (i, entry) in top.config.into_iter().enumerate() {
        let at = format!("{prefix}config[{i}]");
        match entry.kind.as_str() {
            // These belong to devices, which may follow.
            "nameserver" | "route" => rest.push((at, entry)),
            _ => reader.device(&at, entry),
        }
    }
    for (at, entry) in rest {
        if entry.kind == "route" {
            reader.global_route(&at, &entry);
        } else {
            reader.nameserver(&at, entry);
        }
    }
    reader.share_nameservers();
    let network = reader.network;
    (
        Some(Parsed {
            value: network,
            spans,
        }),
        found,
    )
}

struct Reader<'a> {
    spans: &'a Spans,
    found: &'a mut Diagnostics,
    network: Network,
    /// Name servers of no interface.
    shared: Nameservers,
}

impl Reader<'_> {
    fn error(&mut self, at: &str, message: impl Into<String>, help: Option<String>) {
        let finding = self.spans.error_at(at, message, help);
        self.found.push_unless_known(finding);
    }

    fn error_at_key(&mut self, at: &str, message: impl Into<String>, help: Option<String>) {
        let finding = self.spans.error_at_key(at, message, help);
        self.found.push_unless_known(finding);
    }

    fn device(&mut self, at: &str, entry: raw::Entry) {
        let known = ["physical", "bond", "bridge", "vlan", "loopback"];
        if !known.contains(&entry.kind.as_str()) {
            let meant =
                yaml::nearest(&entry.kind, known).map(|one| format!("did you mean `{one}`?"));
            let message = match entry.kind.as_str() {
                "" => "the key `type` is missing".to_owned(),
                kind => format!("`{kind}` is no type of device that is done here"),
            };
            self.error(&format!("{at}.type"), message, meant);
            return;
        }
        let Some(name) = entry.name.clone() else {
            self.error(at, "the key `name` is missing", None);
            return;
        };
        let mut device = Device {
            mtu: self.number(&format!("{at}.mtu"), entry.mtu.as_ref()),
            accept_ra: self.flag(&format!("{at}.accept-ra"), entry.accept_ra.as_ref()),
            ..Device::default()
        };
        let flag = |scalar: &Option<Scalar>| scalar.as_ref().and_then(is_true).unwrap_or(false);
        device.wakeonlan = flag(&entry.wakeonlan);
        device.optional = flag(&entry.optional);
        for (i, subnet) in entry.subnets.iter().enumerate() {
            self.subnet(&format!("{at}.subnets[{i}]"), subnet, &mut device);
        }
        let mac = entry.mac_address.as_ref().and_then(|text| {
            let mac = text.parse::<MacAddress>();
            if let Err(why) = &mac {
                self.error(&format!("{at}.mac_address"), *why, None);
            }
            mac.ok()
        });
        let map = match entry.kind.as_str() {
            "bond" => {
                device.macaddress = mac;
                device.interfaces = entry.bond_interfaces;
                device.parameters = self.bond_parameters(at, entry.params.iter());
                &mut self.network.bonds
            }
            "bridge" => {
                device.macaddress = mac;
                device.interfaces = entry.bridge_interfaces;
                device.parameters = self.bridge_parameters(at, entry.params.iter());
                &mut self.network.bridges
            }
            "vlan" => {
                device.macaddress = mac;
                device.link = entry.vlan_link;
                device.id = self.number(&format!("{at}.vlan_id"), entry.vlan_id.as_ref());
                &mut self.network.vlans
            }
            "loopback" if device == Device::default() => return,
            _ => {
                if let Some(mac) = mac {
                    device.matching = Some(Match {
                        macaddress: Some(mac),
                        ..Match::default()
                    });
                    device.set_name = Some(name.clone());
                }
                &mut self.network.ethernets
            }
        };
        if map.insert(name.clone(), device).is_some() {
            let message = format!("a second device has the name `{name}`");
            self.error(&format!("{at}.name"), message, None);
        }
    }

    fn subnet(&mut self, at: &str, subnet: &raw::Subnet, device: &mut Device) {
        if subnet.control.as_deref() == Some("manual") {
            device.activation_mode = Some("manual".to_owned());
        }
        match subnet.kind.as_str() {
            "dhcp" | "dhcp4" => device.dhcp4 = true,
            "dhcp6" | "ipv6_dhcpv6-stateful" => device.dhcp6 = true,
            "ipv6_slaac" | "ipv6_dhcpv6-stateless" => device.accept_ra = Some(true),
            "manual" | "loopback" => {}
            "static" | "static4" | "static6" => self.address(at, subnet, device),
            kind => {
                let known = [
                    "dhcp",
                    "dhcp4",
                    "dhcp6",
                    "static",
                    "static6",
                    "manual",
                    "ipv6_slaac",
                ];
                let help = yaml::nearest(kind, known).map(|one| format!("did you mean `{one}`?"));
                let message = format!("`{kind}` is no type of subnet");
                self.error(&format!("{at}.type"), message, help);
            }
        }
        let mtu = self.number(&format!("{at}.mtu"), subnet.mtu.as_ref());
        if let Some(mtu) = mtu {
            if subnet
                .address
                .as_ref()
                .is_some_and(|address| address.contains(':'))
            {
                device.ipv6_mtu.get_or_insert(mtu);
            } else {
                device.mtu.get_or_insert(mtu);
            }
        }
        if let Some(gateway) = &subnet.gateway {
            let metric = self.number(&format!("{at}.metric"), subnet.metric.as_ref());
            if let Some(via) = self.ip(&format!("{at}.gateway"), gateway) {
                let on_link = !device.addresses.iter().any(|net| net.contains(&via));
                let is_point = subnet.point_to_point.is_some();
                device.routes.push(Route {
                    // A gateway outside the subnet, as hosters of single addresses have it.
                    on_link: (on_link && !device.addresses.is_empty()) || is_point,
                    ..route(Destination::Default, Some(via), metric)
                });
            }
        }
        for (i, given) in subnet.routes.iter().enumerate() {
            let at = format!("{at}.routes[{i}]");
            let to = given.destination.as_deref();
            let prefix = given.prefix.as_ref().map(|prefix| prefix.text.as_str());
            let mask = given.netmask.as_deref().or(prefix);
            let via = given.gateway.as_deref();
            if let Some(mut route) = self.route(&at, to, mask, via, given.metric.as_ref()) {
                route.mtu = self.number(&format!("{at}.mtu"), given.mtu.as_ref());
                device.routes.push(route);
            }
        }
        let path = format!("{at}.dns_nameservers");
        let servers = self.ips(&path, &subnet.dns_nameservers);
        if !servers.is_empty() || !subnet.dns_search.is_empty() {
            let all = device.nameservers.get_or_insert_default();
            add(&mut all.addresses, servers);
            add(&mut all.search, words(&subnet.dns_search));
        }
    }

    fn address(&mut self, at: &str, subnet: &raw::Subnet, device: &mut Device) {
        let Some(text) = &subnet.address else {
            self.error(at, "the key `address` is missing", None);
            return;
        };
        match net(text, subnet.netmask.as_deref()) {
            Some(net) => device.addresses.push(net),
            None => {
                let help = "write `address: 192.168.7.10/24`, or a `netmask` beside it";
                let message = "not an address with a prefix length or a netmask";
                self.error(&format!("{at}.address"), message, Some(help.to_owned()));
            }
        }
    }

    fn route(
        &mut self,
        at: &str,
        to: Option<&str>,
        mask: Option<&str>,
        via: Option<&str>,
        metric: Option<&Scalar>,
    ) -> Option<Route> {
        let Some(text) = to else {
            self.error(at, "the key `destination` is missing", None);
            return None;
        };
        let whole = |net: &IpNet| net.prefix_len() == 0;
        let to = match text {
            "default" => Destination::Default,
            _ => match net(text, Some(mask.unwrap_or("host"))) {
                Some(net) if whole(&net) => Destination::Default,
                Some(net) => Destination::Net(net.trunc()),
                None => {
                    let message = "not a range such as `10.0.0.0/8`";
                    self.error(&format!("{at}.destination"), message, None);
                    return None;
                }
            },
        };
        let via = match via {
            Some(via) => Some(self.ip(&format!("{at}.gateway"), via)?),
            None => None,
        };
        let metric = self.number(&format!("{at}.metric"), metric);
        Some(route(to, via, metric))
    }

    /// A route of no device belongs to the one with its gateway.
    fn global_route(&mut self, at: &str, entry: &raw::Entry) {
        let (to, mask) = (entry.destination.as_deref(), entry.netmask.as_deref());
        let via = entry.gateway.as_deref();
        let Some(route) = self.route(at, to, mask, via, entry.metric.as_ref()) else {
            return;
        };
        let near = |device: &Device| {
            let via = route.via;
            via.is_some_and(|via| device.addresses.iter().any(|net| net.contains(&via)))
        };
        let count = devices(&mut self.network).count();
        let place = devices(&mut self.network).position(|device| near(device));
        let place = place.or((count == 1).then_some(0));
        match place.and_then(|place| devices(&mut self.network).nth(place)) {
            Some(device) => device.routes.push(route),
            None => {
                let help = "write it under `routes` of a subnet".to_owned();
                self.error(at, "no device has the gateway of this route", Some(help));
            }
        }
    }

    fn nameserver(&mut self, at: &str, entry: raw::Entry) {
        let given = Nameservers {
            addresses: self.ips(&format!("{at}.address"), &entry.address),
            search: words(&entry.search),
        };
        let Some(interface) = entry.interface else {
            add(&mut self.shared.addresses, given.addresses);
            add(&mut self.shared.search, given.search);
            return;
        };
        let maps = [
            &mut self.network.ethernets,
            &mut self.network.bonds,
            &mut self.network.bridges,
            &mut self.network.vlans,
        ];
        let device = maps.into_iter().find_map(|map| map.get_mut(&interface));
        if let Some(device) = device {
            let all = device.nameservers.get_or_insert_default();
            add(&mut all.addresses, given.addresses);
            add(&mut all.search, given.search);
            return;
        }
        let message = format!("no device has the name `{interface}`");
        self.error(&format!("{at}.interface"), message, None);
    }

    fn share_nameservers(&mut self) {
        if self.shared == Nameservers::default() {
            return;
        }
        for device in devices(&mut self.network) {
            let all = device.nameservers.get_or_insert_default();
            add(&mut all.addresses, self.shared.addresses.clone());
            add(&mut all.search, self.shared.search.clone());
        }
    }

    fn ip(&mut self, at: &str, text: &str) -> Option<IpAddr> {
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            self.error(at, "not an IP address", None);
        }
        parsed
    }

    fn ips(&mut self, at: &str, texts: &[String]) -> Vec<IpAddr> {
        words(texts)
            .iter()
            .filter_map(|word| self.ip(at, word))
            .collect()
    }

    fn number<T: std::str::FromStr>(&mut self, at: &str, scalar: Option<&Scalar>) -> Option<T> {
        let scalar = scalar.filter(|scalar| !is_null(scalar))?;
        let parsed = scalar.text.parse().ok();
        if parsed.is_none() {
            self.error(at, "expected a number", None);
        }
        parsed
    }

    fn flag(&mut self, at: &str, scalar: Option<&Scalar>) -> Option<bool> {
        let scalar = scalar.filter(|scalar| !is_null(scalar))?;
        let parsed = is_true(scalar);
        if parsed.is_none() {
            self.error(at, "expected `true` or `false`", None);
        }
        parsed
    }
}

fn devices(network: &mut Network) -> impl Iterator<Item = &mut Device> {
    let maps: [&mut BTreeMap<String, Device>; 4] = [
        &mut network.ethernets,
        &mut network.bonds,
        &mut network.bridges,
        &mut network.vlans,
    ];
    maps.into_iter().flat_map(BTreeMap::values_mut)
}

fn route(to: Destination, via: Option<IpAddr>, metric: Option<u32>) -> Route {
    Route {
        to,
        via,
        from: None,
        metric,
        on_link: false,
        table: None,
        mtu: None,
        congestion_window: None,
        advertised_receive_window: None,
        advertised_mss: None,
        kind: None,
        scope: None,
    }
}
