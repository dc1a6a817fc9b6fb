//! What comes from other machines: leases of DHCP and router advertisements.

use super::Unit;
use crate::network::{Device, Overrides, RaOverrides};

/// IPv6 default routes come from router advertisements, never from DHCPv6, so overrides of routes
/// belong here.
pub(super) fn router_advertisements(unit: &mut Unit, device: &Device) {
    let (v4, v6) = (
        device.dhcp4_overrides.as_ref(),
        device.dhcp6_overrides.as_ref(),
    );
    let overrides = v6.filter(|_| device.dhcp6).or(v4.filter(|_| device.dhcp4));
    let none = RaOverrides::default();
    let ra = device.ra_overrides.as_ref().unwrap_or(&none);
    unit.section("IPv6AcceptRA");
    if device.dhcp4 || device.dhcp6 {
        unit.set(
            "RouteMetric",
            overrides.and_then(|o| o.route_metric).unwrap_or(100),
        );
    }
    unit.maybe("UseDNS", ra.use_dns.or(overrides.and_then(|o| o.use_dns)));
    let domains = ra.use_domains.as_ref();
    unit.maybe(
        "UseDomains",
        domains.or(overrides.and_then(|o| o.use_domains.as_ref())),
    );
    unit.maybe("RouteTable", ra.table);
    if device.dhcp6 {
        unit.set("UseMTU", v6.and_then(|o| o.use_mtu).unwrap_or(true));
    }
    if device.dhcp6 && v6.and_then(|o| o.use_routes) == Some(false) {
        unit.set("UseGateway", "false")
            .set("UseRoutePrefix", "false");
    }
    // netplan's `stable-privacy` is about addresses from advertisements.
    let stable = device.ipv6_address_generation.as_deref() == Some("stable-privacy");
    let token = device
        .ipv6_address_token
        .map(|token| format!("static:{token}"));
    unit.maybe(
        "Token",
        token.or_else(|| stable.then(|| "prefixstable".to_owned())),
    );
}

pub(super) fn dhcp(
    unit: &mut Unit,
    section: &'static str,
    device: &Device,
    overrides: Option<&Overrides>,
) {
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
