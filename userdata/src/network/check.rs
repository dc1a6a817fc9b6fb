//! Rules over more than one value: keys on the wrong kind of device, references to unknown devices,
//! mismatched address families.

mod parameters;
mod routes;
mod virtual_devices;

use std::collections::BTreeMap;

use super::values::{is_file_name, is_interface_name, is_word};
use super::{Device, Network};
use crate::value;
use yaml::{Diagnostics, Parsed, Spans};

struct Checker<'a> {
    network: &'a Network,
    spans: &'a Spans,
    found: &'a mut Diagnostics,
}

/// `prefix` is `network.` when the text has the outer key.
pub(super) fn devices(parsed: &Parsed<Network>, prefix: &str, found: &mut Diagnostics) {
    let network = &parsed.value;
    let mut checker = Checker {
        network,
        spans: &parsed.spans,
        found,
    };
    checker.renderer(network.renderer.as_deref(), &format!("{prefix}renderer"));
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    for (kind, devices) in kinds_of(network) {
        let of_kind = format!("{prefix}{kind}.renderer");
        checker.renderer(parsed.spans.text(&of_kind), &of_kind);
        for (id, device) in devices {
            let at = format!("{prefix}{kind}[\"{id}\"]");
            if let Some(other) = kinds.insert(id, kind) {
                checker.error(
                    &at,
                    "",
                    format!("`{id}` is also one of `{other}`"),
                    "give it another id",
                );
            }
            checker.device(kind, id, device, &at);
        }
    }
    let mut masters: BTreeMap<&str, &str> = BTreeMap::new();
    let joining = [
        ("bonds", &network.bonds),
        ("bridges", &network.bridges),
        ("vrfs", &network.vrfs),
    ];
    for (kind, devices) in joining {
        for (id, device) in devices {
            for (i, member) in device.interfaces.iter().enumerate() {
                let at = format!("{prefix}{kind}[\"{id}\"].interfaces[{i}]");
                if !kinds.contains_key(member.as_str()) {
                    checker.error(
                        &at,
                        "",
                        format!("no device has the id `{member}`"),
                        "list it under `ethernets`",
                    );
                }
                if let Some(other) = masters.insert(member, id) {
                    checker.error(
                        &at,
                        "",
                        format!("`{member}` already belongs to `{other}`"),
                        "",
                    );
                }
            }
        }
    }
}

pub(super) fn kinds_of(network: &Network) -> [(&'static str, &BTreeMap<String, Device>); 8] {
    [
        ("ethernets", &network.ethernets),
        ("bonds", &network.bonds),
        ("bridges", &network.bridges),
        ("vlans", &network.vlans),
        ("dummy-devices", &network.dummy_devices),
        ("virtual-ethernets", &network.virtual_ethernets),
        ("tunnels", &network.tunnels),
        ("vrfs", &network.vrfs),
    ]
}

impl Checker<'_> {
    /// `key` empty: about the device as a whole.
    fn error(&mut self, at: &str, key: &str, message: impl Into<String>, help: &str) {
        let help = (!help.is_empty()).then(|| help.to_owned());
        let finding = if key.is_empty() {
            self.spans.error_at_key(at, message, help)
        } else {
            self.spans.error_at(&format!("{at}.{key}"), message, help)
        };
        self.found.push_unless_known(finding);
    }

    fn renderer(&mut self, renderer: Option<&str>, at: &str) {
        if renderer == Some("sriov") {
            let message = "`renderer: sriov` is not supported";
            self.found.push(self.spans.error_at_key(at, message, None));
        } else if renderer.is_some_and(|renderer| renderer != "networkd") {
            let message = "`renderer` is ignored: the network is configured by systemd-networkd";
            self.found
                .push(self.spans.warning_at_key(at, message, None));
        }
    }

    fn device(&mut self, kind: &str, id: &str, device: &Device, at: &str) {
        self.keys(kind, id, device, at);
        let named_by_id = device.matching.is_none();
        if !is_file_name(id) || (named_by_id && !is_interface_name(id)) {
            self.error(
                at,
                "",
                "not an interface name",
                "up to 15 letters, digits, `-`, `_` and `.`",
            );
        }
        if let Some(name) = &device.set_name {
            if device.matching.is_none() {
                self.error(
                    at,
                    "set-name",
                    "`set-name` needs `match`",
                    "match by `macaddress`",
                );
            }
            if !is_interface_name(name) {
                self.error(
                    at,
                    "set-name",
                    "not an interface name",
                    "up to 15 letters, digits, `-`, `_` and `.`",
                );
            }
        }
        if let Some(matching) = &device.matching {
            let words = matching.name.iter().chain(&matching.driver);
            if words.clone().any(|word| !is_word(word)) {
                self.error(at, "match", "a pattern cannot hold blanks", "");
            }
            if matching.name.is_none()
                && matching.macaddress.is_none()
                && matching.driver.is_empty()
            {
                self.error(
                    at,
                    "match",
                    "an empty `match` would take every interface",
                    "match by `macaddress`",
                );
            }
        }
        self.renderer(device.renderer.as_deref(), &format!("{at}.renderer"));
        if !matches!(
            device.activation_mode.as_deref(),
            None | Some("manual" | "off")
        ) {
            self.error(at, "activation-mode", "expected `manual` or `off`", "");
        }
        if !matches!(
            device.ipv6_address_generation.as_deref(),
            None | Some("eui64" | "stable-privacy")
        ) {
            let key = "ipv6-address-generation";
            self.error(at, key, "expected `eui64` or `stable-privacy`", "");
        }
        if device.mtu.is_some_and(|mtu| !(68..=65536).contains(&mtu)) {
            self.error(at, "mtu", "not an MTU", "68 to 65536");
        }
        if !matches!(
            device.dhcp_identifier.as_deref(),
            None | Some("mac" | "duid")
        ) {
            self.error(at, "dhcp-identifier", "expected `mac` or `duid`", "");
        }
        for (i, family) in device.link_local.iter().flatten().enumerate() {
            if family != "ipv4" && family != "ipv6" {
                self.error(
                    at,
                    &format!("link-local[{i}]"),
                    "expected `ipv4` or `ipv6`",
                    "",
                );
            }
        }
        if !matches!(
            device.infiniband_mode.as_deref(),
            None | Some("datagram" | "connected" | "kernel")
        ) {
            let message = "expected `datagram`, `connected` or `kernel`";
            self.error(at, "infiniband-mode", message, "");
        }
        let ra = device.ra_overrides.as_ref();
        self.domains(ra.and_then(|ra| ra.use_domains.as_deref()), at, "ra");
        for (key, overrides) in [
            ("dhcp4", &device.dhcp4_overrides),
            ("dhcp6", &device.dhcp6_overrides),
        ] {
            let Some(overrides) = overrides else { continue };
            self.domains(overrides.use_domains.as_deref(), at, key);
            if overrides
                .hostname
                .as_deref()
                .is_some_and(|name| value::dns_name(name).is_err())
            {
                self.error(
                    at,
                    &format!("{key}-overrides.hostname"),
                    "not a host name",
                    "",
                );
            }
        }
        for (i, domain) in device
            .nameservers
            .iter()
            .flat_map(|servers| &servers.search)
            .enumerate()
        {
            let bare = domain
                .trim_start_matches('~')
                .trim_end_matches('.')
                .to_ascii_lowercase();
            if !bare.is_empty() && value::dns_name(&bare).is_err() {
                self.error(at, &format!("nameservers.search[{i}]"), "not a domain", "");
            }
        }
        self.routes(device, at);
    }

    fn domains(&mut self, given: Option<&str>, at: &str, of: &str) {
        if !matches!(
            given,
            None | Some("true" | "false" | "yes" | "no" | "route")
        ) {
            let key = format!("{of}-overrides.use-domains");
            self.error(at, &key, "expected `true`, `false` or `route`", "");
        }
    }

    /// Keys that belong to another kind of device.
    fn keys(&mut self, kind: &str, id: &str, device: &Device, at: &str) {
        let joins = kind == "bonds" || kind == "bridges";
        let has_link = kind == "vlans" || kind == "tunnels";
        let offloads = [
            ("receive-checksum-offload", device.receive_checksum_offload),
            (
                "transmit-checksum-offload",
                device.transmit_checksum_offload,
            ),
            ("tcp-segmentation-offload", device.tcp_segmentation_offload),
            (
                "tcp6-segmentation-offload",
                device.tcp6_segmentation_offload,
            ),
            (
                "generic-segmentation-offload",
                device.generic_segmentation_offload,
            ),
            ("generic-receive-offload", device.generic_receive_offload),
            ("large-receive-offload", device.large_receive_offload),
        ];
        let offloads = offloads
            .into_iter()
            .map(|(key, value)| (value.is_some() && kind != "ethernets", key, "`ethernets`"));
        let misplaced = [
            (
                device.matching.is_some() && kind != "ethernets",
                "match",
                "`ethernets`",
            ),
            (
                device.set_name.is_some() && kind != "ethernets",
                "set-name",
                "`ethernets`",
            ),
            (
                device.wakeonlan && kind != "ethernets",
                "wakeonlan",
                "`ethernets`",
            ),
            (
                !device.interfaces.is_empty() && !joins && kind != "vrfs",
                "interfaces",
                "`bonds`, `bridges` and `vrfs`",
            ),
            (
                device.parameters.is_some() && !joins,
                "parameters",
                "`bonds` and `bridges`",
            ),
            (
                device.id.is_some() && !has_link,
                "id",
                "`vlans` and `tunnels`",
            ),
            (
                device.link.is_some() && !has_link && kind != "ethernets",
                "link",
                "`vlans` and `tunnels`",
            ),
            (device.table.is_some() && kind != "vrfs", "table", "`vrfs`"),
            (
                device.peer.is_some() && kind != "virtual-ethernets",
                "peer",
                "`virtual-ethernets`",
            ),
        ];
        let of_tunnels = virtual_devices::tunnel_keys(device)
            .into_iter()
            .map(|(key, given)| (given && kind != "tunnels", key, "`tunnels`"));
        let all = misplaced.into_iter().chain(offloads).chain(of_tunnels);
        for (wrong, key, home) in all {
            if wrong {
                let path = format!("{at}.{key}");
                let message = format!("`{key}` belongs to {home}, not to `{kind}`");
                self.found
                    .push(self.spans.error_at_key(&path, message, None));
            }
        }
        if device.link.is_some() && kind == "ethernets" {
            let message = "`link` of an ethernet (SR-IOV) is not supported";
            self.error(at, "link", message, "remove the key");
        }
        if let Some(parameters) = &device.parameters {
            self.parameters(kind, device, parameters, at);
        }
        match kind {
            "vlans" => self.vlan(device, at),
            "vrfs" => self.vrf(device, at),
            "virtual-ethernets" => self.virtual_ethernet(id, device, at),
            "tunnels" => self.tunnel(device, at),
            _ => {}
        }
    }
}
