//! Virtual devices: bonds, bridges and VLANs.

use super::Unit;
use crate::network::{Device, Parameters, Time};

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
        _ => {
            unit.set("Kind", "vlan")
                .section("VLAN")
                .maybe("Id", device.id);
        }
    }
    unit.text
}
