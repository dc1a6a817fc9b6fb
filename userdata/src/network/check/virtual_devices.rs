//! VLANs, VRFs, pairs of virtual ethernets and tunnels.

use super::{Checker, kinds_of};
use crate::network::Device;
use crate::network::networkd::netdev::{CHECKSUMS, EXTENSIONS, NOTIFICATIONS};

/// Modes of tunnels: their name, whether the outer packets are IPv4, and whether they have keys.
const MODES: &[(&str, bool, bool)] = &[
    ("gre", true, true),
    ("gretap", true, true),
    ("ip6gre", false, true),
    ("ip6gretap", false, true),
    ("ip6ip6", false, false),
    ("ipip", true, false),
    ("ipip6", false, false),
    ("sit", true, false),
    ("vti", true, true),
    ("vti6", false, true),
];

/// Keys that only tunnels have, and whether the device has them.
pub(super) fn tunnel_keys(device: &Device) -> [(&'static str, bool); 18] {
    let all = vxlan_keys(device);
    let mut keys = [("", false); 18];
    keys[..5].copy_from_slice(&[
        ("mode", device.mode.is_some()),
        ("local", device.local.is_some()),
        ("remote", device.remote.is_some()),
        ("ttl", device.ttl.is_some()),
        ("keys", device.keys.is_some()),
    ]);
    keys[5..].copy_from_slice(&all);
    keys
}

fn vxlan_keys(device: &Device) -> [(&'static str, bool); 13] {
    [
        ("mac-learning", device.mac_learning.is_some()),
        ("ageing", device.ageing.is_some()),
        ("limit", device.limit.is_some()),
        ("arp-proxy", device.arp_proxy.is_some()),
        ("short-circuit", device.short_circuit.is_some()),
        ("type-of-service", device.type_of_service.is_some()),
        ("flow-label", device.flow_label.is_some()),
        ("do-not-fragment", device.do_not_fragment.is_some()),
        ("port", device.port.is_some()),
        ("port-range", !device.port_range.is_empty()),
        ("notifications", !device.notifications.is_empty()),
        ("checksums", !device.checksums.is_empty()),
        ("extensions", !device.extensions.is_empty()),
    ]
}

impl Checker<'_> {
    pub(super) fn vlan(&mut self, device: &Device, at: &str) {
        match device.id {
            None => self.error(at, "", "the key `id` is missing", ""),
            Some(id) if id > 4094 => self.error(at, "id", "not a VLAN id", "0 to 4094"),
            Some(_) => {}
        }
        match &device.link {
            None => self.error(at, "", "the key `link` is missing", ""),
            Some(link) => self.known(link, at, "link"),
        }
    }

    fn known(&mut self, id: &str, at: &str, key: &str) {
        let kinds = kinds_of(self.network);
        if !kinds.iter().any(|(_, devices)| devices.contains_key(id)) {
            let message = format!("no device has the id `{id}`");
            self.error(at, key, message, "list it under `ethernets`");
        }
    }

    pub(super) fn vrf(&mut self, device: &Device, at: &str) {
        let Some(table) = device.table else {
            self.error(at, "", "the key `table` is missing", "");
            return;
        };
        let routes = device.routes.iter().map(|route| route.table);
        let rules = device.routing_policy.iter().map(|rule| rule.table);
        for (key, tables) in [
            ("routes", routes.collect::<Vec<_>>()),
            ("routing-policy", rules.collect()),
        ] {
            for (i, other) in tables.into_iter().enumerate() {
                if other.is_some_and(|other| other != table) {
                    let message = format!("not the table of this VRF, {table}");
                    self.error(at, &format!("{key}[{i}].table"), message, "remove the key");
                }
            }
        }
    }

    pub(super) fn virtual_ethernet(&mut self, id: &str, device: &Device, at: &str) {
        let Some(peer) = &device.peer else {
            self.error(at, "", "the key `peer` is missing", "");
            return;
        };
        let ends = &self.network.virtual_ethernets;
        let back = ends.get(peer).and_then(|end| end.peer.as_deref());
        if peer == id || back != Some(id) {
            let message = format!("`{peer}` is not a virtual ethernet with the peer `{id}`");
            let help = format!("list `{peer}: {{peer: {id}}}` under `virtual-ethernets`");
            self.error(at, "peer", message, &help);
        }
    }

    pub(super) fn tunnel(&mut self, device: &Device, at: &str) {
        let modes = || MODES.iter().map(|(name, ..)| *name).chain(["vxlan"]);
        match device.mode.as_deref() {
            None => self.error(at, "", "the key `mode` is missing", ""),
            Some("vxlan") => self.vxlan(device, at),
            Some(mode @ ("wireguard" | "isatap")) => {
                let message = format!("tunnels of the mode `{mode}` are not supported");
                self.error(at, "mode", message, "remove the tunnel");
            }
            Some(mode) => match MODES.iter().find(|(name, ..)| *name == mode) {
                None => {
                    let all = modes().map(|name| format!("`{name}`")).collect::<Vec<_>>();
                    self.error(at, "mode", "not a mode of tunnels", &all.join(", "));
                }
                Some((_, ipv4, has_keys)) => self.ip_tunnel(device, at, *ipv4, *has_keys),
            },
        }
    }

    fn ip_tunnel(&mut self, device: &Device, at: &str, ipv4: bool, has_keys: bool) {
        if device.remote.is_none() {
            self.error(at, "", "the key `remote` is missing", "");
        }
        for (key, address) in [("local", device.local), ("remote", device.remote)] {
            if address.is_some_and(|address| address.is_ipv4() != ipv4) {
                let family = if ipv4 { "IPv4" } else { "IPv6" };
                let message = format!("this mode of tunnels needs an {family} address");
                self.error(at, key, message, "");
            }
        }
        if device.keys.is_some() && !has_keys {
            self.error(at, "keys", "tunnels of this mode have no keys", "");
        }
        let own = [("id", device.id.is_some()), ("link", device.link.is_some())];
        for (key, given) in own.into_iter().chain(vxlan_keys(device)) {
            if given {
                let message = format!("`{key}` belongs to tunnels of the mode `vxlan`");
                self.error(at, key, message, "");
            }
        }
    }

    fn vxlan(&mut self, device: &Device, at: &str) {
        match device.id {
            None => self.error(at, "", "the key `id` is missing", ""),
            Some(id) if !(1..1 << 24).contains(&id) => {
                self.error(at, "id", "not a VXLAN id", "1 to 16777215");
            }
            Some(_) => {}
        }
        if let Some(link) = &device.link {
            self.known(link, at, "link");
        }
        if let (Some(local), Some(remote)) = (device.local, device.remote)
            && local.is_ipv4() != remote.is_ipv4()
        {
            self.error(at, "remote", "of another address family than `local`", "");
        }
        if device.keys.is_some() {
            self.error(at, "keys", "tunnels of this mode have no keys", "");
        }
        if device.flow_label.is_some_and(|label| label >= 1 << 20) {
            self.error(at, "flow-label", "not a flow label", "0 to 1048575");
        }
        if !matches!(device.port_range[..], [] | [_, _]) {
            self.error(at, "port-range", "expected two ports", "[first, last]");
        }
        for (key, given, known) in [
            ("notifications", &device.notifications, NOTIFICATIONS),
            ("checksums", &device.checksums, CHECKSUMS),
            ("extensions", &device.extensions, EXTENSIONS),
        ] {
            for (i, word) in given.iter().enumerate() {
                if !known.iter().any(|(name, _)| name == word) {
                    let all = known.iter().map(|(name, _)| format!("`{name}`"));
                    let all = all.collect::<Vec<_>>().join(", ");
                    self.error(at, &format!("{key}[{i}]"), "not known", &all);
                }
            }
        }
    }
}
