//! Parameters of bonds and bridges: which kind they belong to, and their members.

use super::Checker;
use crate::network::values::is_word;
use crate::network::{Device, Parameters};

impl Checker<'_> {
    pub(super) fn parameters(&mut self, kind: &str, device: &Device, p: &Parameters, at: &str) {
        let bond = p.mode.is_some()
            || p.lacp_rate.is_some()
            || p.mii_monitor_interval.is_some()
            || p.min_links.is_some()
            || p.transmit_hash_policy.is_some()
            || p.ad_select.is_some()
            || p.up_delay.is_some()
            || p.down_delay.is_some()
            || p.fail_over_mac_policy.is_some()
            || p.gratuitous_arp.is_some()
            || p.primary_reselect_policy.is_some()
            || p.all_members_active.is_some()
            || p.arp_interval.is_some()
            || !p.arp_ip_targets.is_empty()
            || p.arp_validate.is_some()
            || p.arp_all_targets.is_some()
            || p.packets_per_member.is_some()
            || p.resend_igmp.is_some()
            || p.learn_packet_interval.is_some()
            || p.primary.is_some();
        let bridge = p.stp.is_some()
            || p.ageing_time.is_some()
            || p.priority.is_some()
            || p.forward_delay.is_some()
            || p.hello_time.is_some()
            || p.max_age.is_some()
            || !p.path_cost.is_empty()
            || !p.port_priority.is_empty();
        if (kind == "bonds" && bridge) || (kind == "bridges" && bond) {
            self.error(
                at,
                "parameters",
                format!("some of these are not parameters of `{kind}`"),
                "",
            );
        }
        let words = [
            &p.mode,
            &p.lacp_rate,
            &p.transmit_hash_policy,
            &p.ad_select,
            &p.fail_over_mac_policy,
            &p.primary_reselect_policy,
            &p.arp_validate,
            &p.arp_all_targets,
        ];
        if words.into_iter().flatten().any(|word| !is_word(word)) {
            self.error(at, "parameters", "a parameter is a single word", "");
        }
        if p.primary
            .as_ref()
            .is_some_and(|primary| !device.interfaces.contains(primary))
        {
            self.error(
                at,
                "parameters.primary",
                "not one of this bond's `interfaces`",
                "",
            );
        }
        let ports = [
            ("path-cost", &p.path_cost),
            ("port-priority", &p.port_priority),
        ];
        for (key, members) in ports {
            for (id, value) in members {
                let path = format!("parameters.{key}[\"{id}\"]");
                if !device.interfaces.contains(id) {
                    self.error(at, &path, "not one of this bridge's `interfaces`", "");
                } else if key == "port-priority" && *value > 63 {
                    self.error(at, &path, "not a priority", "0 to 63");
                }
            }
        }
    }
}
