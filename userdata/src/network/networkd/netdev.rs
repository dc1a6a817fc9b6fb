//! Virtual devices.

use super::Unit;
use crate::network::{Device, Parameters, Time};

/// netplan's words, and networkd's keys for them.
pub(in crate::network) const NOTIFICATIONS: &[(&str, &str)] = &[
    ("l2-miss", "L2MissNotification"),
    ("l3-miss", "L3MissNotification"),
];
pub(in crate::network) const CHECKSUMS: &[(&str, &str)] = &[
    ("udp", "UDPChecksum"),
    ("zero-udp6-tx", "UDP6ZeroChecksumTx"),
    ("zero-udp6-rx", "UDP6ZeroChecksumRx"),
    ("remote-tx", "RemoteChecksumTx"),
    ("remote-rx", "RemoteChecksumRx"),
];
pub(in crate::network) const EXTENSIONS: &[(&str, &str)] = &[
    ("group-policy", "GroupPolicyExtension"),
    ("generic-protocol", "GenericProtocolExtension"),
];

pub(super) fn netdev(kind: &str, id: &str, device: &Device) -> String {
    let mut unit = Unit::default();
    unit.section("NetDev").set("Name", id);
    unit.maybe("MACAddress", device.macaddress.as_ref())
        .maybe("MTUBytes", device.mtu);
    let none = Parameters::default();
    let p = device.parameters.as_ref().unwrap_or(&none);
    match kind {
        "bonds" => {
            let ms = |value: &Option<Time>| value.as_ref().map(|time| time.with_unit("ms"));
            unit.set("Kind", "bond").section("Bond");
            unit.maybe("Mode", p.mode.as_ref())
                .maybe("LACPTransmitRate", p.lacp_rate.as_ref())
                .maybe("MIIMonitorSec", ms(&p.mii_monitor_interval))
                .maybe("MinLinks", p.min_links)
                .maybe("TransmitHashPolicy", p.transmit_hash_policy.as_ref())
                .maybe("AdSelect", p.ad_select.as_ref())
                .maybe("UpDelaySec", ms(&p.up_delay))
                .maybe("DownDelaySec", ms(&p.down_delay))
                .maybe("FailOverMACPolicy", p.fail_over_mac_policy.as_ref())
                .maybe("GratuitousARP", p.gratuitous_arp)
                .maybe("PrimaryReselectPolicy", p.primary_reselect_policy.as_ref())
                .maybe("AllSlavesActive", p.all_members_active)
                .maybe("ARPIntervalSec", ms(&p.arp_interval))
                .maybe("ARPValidate", p.arp_validate.as_ref())
                .maybe("ARPAllTargets", p.arp_all_targets.as_ref())
                .maybe("PacketsPerSlave", p.packets_per_member)
                .maybe("ResendIGMP", p.resend_igmp)
                .maybe("LearnPacketIntervalSec", p.learn_packet_interval.as_ref());
            let targets: Vec<_> = p.arp_ip_targets.iter().map(ToString::to_string).collect();
            if !targets.is_empty() {
                unit.set("ARPIPTargets", targets.join(" "));
            }
        }
        "bridges" => {
            unit.set("Kind", "bridge").section("Bridge");
            unit.maybe("AgeingTimeSec", p.ageing_time.as_ref())
                .maybe("Priority", p.priority)
                .maybe("ForwardDelaySec", p.forward_delay.as_ref())
                .maybe("HelloTimeSec", p.hello_time.as_ref())
                .maybe("MaxAgeSec", p.max_age.as_ref());
            // netplan's default once there are parameters; the kernel's, which is off, when there
            // are none.
            if device.parameters.is_some() {
                unit.set("STP", p.stp.unwrap_or(true));
            }
        }
        "vlans" => {
            unit.set("Kind", "vlan")
                .section("VLAN")
                .maybe("Id", device.id);
        }
        "vrfs" => {
            unit.set("Kind", "vrf")
                .section("VRF")
                .maybe("Table", device.table);
        }
        "virtual-ethernets" => {
            unit.set("Kind", "veth")
                .section("Peer")
                .maybe("Name", device.peer.as_ref());
        }
        "tunnels" => tunnel(&mut unit, device),
        _ => {
            unit.set("Kind", "dummy");
        }
    }
    unit.text
}

fn tunnel(unit: &mut Unit, device: &Device) {
    let mode = device.mode.as_deref().unwrap_or_default();
    if mode == "vxlan" {
        return vxlan(unit, device);
    }
    let over_ipv6 = mode == "ipip6" || mode == "ip6ip6";
    unit.set("Kind", if over_ipv6 { "ip6tnl" } else { mode });
    // The tunnel is up without another device under it.
    unit.section("Tunnel").set("Independent", "true");
    if over_ipv6 {
        unit.set("Mode", mode);
    }
    let keys = device.keys.as_ref();
    unit.maybe("Local", device.local)
        .maybe("Remote", device.remote)
        .maybe("TTL", device.ttl)
        .maybe("InputKey", keys.and_then(|keys| keys.input.as_ref()))
        .maybe("OutputKey", keys.and_then(|keys| keys.output.as_ref()));
}

fn vxlan(unit: &mut Unit, device: &Device) {
    unit.set("Kind", "vxlan").section("VXLAN");
    unit.maybe("VNI", device.id);
    if let Some(remote) = device.remote {
        let key = if remote.is_multicast() {
            "Group"
        } else {
            "Remote"
        };
        unit.set(key, remote);
    }
    unit.maybe("Local", device.local)
        .maybe("TOS", device.type_of_service)
        .maybe("TTL", device.ttl)
        .maybe("MacLearning", device.mac_learning)
        .maybe("FDBAgeingSec", device.ageing)
        .maybe("MaximumFDBEntries", device.limit)
        .maybe("ReduceARPProxy", device.arp_proxy)
        .maybe("RouteShortCircuit", device.short_circuit);
    let switches = [
        (&device.notifications, NOTIFICATIONS),
        (&device.checksums, CHECKSUMS),
        (&device.extensions, EXTENSIONS),
    ];
    for (given, known) in switches {
        for (word, key) in known {
            if given.iter().any(|one| one == word) {
                unit.set(key, "true");
            }
        }
    }
    unit.maybe("DestinationPort", device.port);
    if let [first, last] = device.port_range[..] {
        unit.set(
            "PortRange",
            format!("{}-{}", first.min(last), first.max(last)),
        );
    }
    unit.maybe("FlowLabel", device.flow_label)
        .maybe("IPDoNotFragment", device.do_not_fragment);
    if device.link.is_none() {
        unit.set("Independent", "true");
    }
}
